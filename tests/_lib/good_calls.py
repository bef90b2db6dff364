"""A correct call of every public function, by the names of its arguments.

`good_call(name)` is one function with what it is called with. An argument that
is called alike in most functions has one value for all of them; what a function
takes otherwise stands below its name. `CLASSES` says what is no function.
"""

import functools
import inspect
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import calibration
from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import graph
from jaxsparse import masks
from jaxsparse import methods
from jaxsparse import nn
from jaxsparse import packed
from jaxsparse import patterns
from jaxsparse import placement
from jaxsparse import recipes
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores
from jaxsparse import training
from jaxsparse import transform
from jaxsparse import units

PACKAGES = (
    calibration, distributions, flows, graph, masks, methods, nn, packed,
    patterns, placement, recipes, rules, schedules, scopes, scores, training,
    transform, units)


def functions() -> dict[str, Any]:
  """Every public function by its package and name."""
  found = {}
  for package in PACKAGES:
    for name in package.__all__:
      value = getattr(package, name)
      if inspect.isfunction(value):  # No type, and none of the classes.
        found[f'{package.__name__.removeprefix("jaxsparse.")}.{name}'] = value
  return found


def _apply(params, x):
  hidden = jax.nn.relu(x @ params['l1']['kernel'] + params['l1']['bias'][None])
  return hidden @ params['l2']['kernel']


@functools.cache
def _values() -> dict[str, Any]:
  """What the names of arguments mean in most functions."""
  params = {'l1': {'kernel': jnp.sin(jnp.arange(32.)).reshape(4, 8),
                   'bias': jnp.ones(8)},
            'l2': {'kernel': jnp.cos(jnp.arange(32.)).reshape(8, 4)}}
  x = jnp.sin(jnp.arange(8.)).reshape(2, 4)
  free = {'.*kernel': jaxsparse.unstructured(.5)}
  two_of_four = {'.*kernel': jaxsparse.nm(2, 4)}
  rule = jaxsparse.prune(two_of_four)
  ties = jaxsparse.infer_ties(_apply, params, x)
  tx = jaxsparse.sparsify(optax.sgd(.1), rule)
  state = tx.init(params)
  w = params['l1']['kernel']
  mask = jaxsparse.select(jnp.abs(w), jaxsparse.nm(2, 4))
  sparse = jnp.where(mask, w, 0.)
  keep = jaxsparse.alive(params, ties)
  units_of = units.sensitivity(lambda p, x: _apply(p, x).sum(), params, [x],
                               ties)
  layer = scopes.Layer(
      'l1/kernel', jaxsparse.unstructured(.5), w.shape, jnp.abs(w), mask,
      jnp.zeros_like(mask), jnp.ones_like(mask))
  kept = distributions.uniform(.5)({'k': jnp.abs(w)}, {
      'k': jaxsparse.unstructured()}, 1.)['k']
  return {
      'params': params, 'x': x, 'fn': _apply, 'f': _apply, 'inputs': (x,),
      'args': (x,), 'batches': [(x,)], 'patterns': free, 'rule': rule,
      'ties': ties, 'opt_state': state, 'tx': tx, 'inner': optax.sgd(.1),
      'masks': state.masks, 'tree': params, 'keep': keep, 'w': w,
      'pattern': jaxsparse.nm(2, 4), 'sparsity': .5, 'total_steps': 100,
      'steps': 4, 'every': 10, 'begin': 0, 'end': 10, 'n': 2, 'm': 4,
      'axis': -1, 'grow': jaxsparse.gradient(), 'when': schedules.every(2),
      'gain': .5, 'h': jnp.eye(4), 'v': w + 1., 'squares': jnp.ones(4),
      'mask': mask, 'packed': jaxsparse.pack(sparse, axis=0),
      'scores': jnp.abs(w),
      'groups': {'.*kernel': jaxsparse.channel(-1)}, 'alpha': .1,
      'learning_rate': .1, 'method': methods.ste(two_of_four, 10),
      'importance': units_of, 'loss_fn': lambda p, x: _apply(p, x[0]).sum(),
      'grads': params, 'before': state.masks, 'after': state.masks,
      'count': jnp.int32(1), 'seed': 1, 'shape': (1, 2), 'decay': .1,
      'found': calibration.activations(_apply, params, [(x,)]),
      'layers': [layer], 'goals': [kept.count], 'levels': {1: .5, 2: 1.},
      'schedule': schedules.linear(0, 10), 'share': .5, 'value': .1,
      'final_sparsity': .5, 'whens': (schedules.every(2),),
      'rules': (rule,), 'backward': .25, 'recipe': {'sparsity': .9},
      'freeze_at': 2,
      'made': jaxsparse.from_recipe({'sparsity': .9}, total_steps=10),
      'g': w, 'key': jax.random.key(0),
      'permutations': {}, 'layout': 'planar', 'implementation': 'xla'}


_NM = ('cast', 'ste', 'step', 'sr_ste', 's_ste', 'learned_masks', 'mdgf_linear',
       'mdgf_exponential', 'sdgf_geometric', 'sdgf_stepwise', 'top_kast',
       'train_prune_retrain')


def _own(name: str) -> dict[str, Any]:
  """What a function takes otherwise."""
  package, _, short = name.rpartition('.')
  values = _values()
  sparse = jnp.where(values['mask'], values['w'], 0.)
  if package == 'methods':
    return {'patterns': {'.*kernel': jaxsparse.nm(2, 4)}} | (
        {'every': 10} if short == 'top_kast' else {}) if short in _NM else {
            'every': 2, 'prune_every': 2, 'spare': (), 'patterns': {
                '.*kernel': jaxsparse.unstructured(
                    balanced=short == 'srigl')}}
  if short.startswith('sharded_'):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('model',))
    return {'mesh': mesh, 'columns': 'model', 'implementation': 'xla', 'w': (
        sparse if 'training' in short else jaxsparse.pack(sparse))}
  if package == 'nn':
    return _of_nn(short)
  return {
      'calibration.reap': _mixture() if short == 'reap' else {},
      'flows.soft_threshold': {'patterns': {'.*kernel': jaxsparse.nm(2, 4)}},
      'flows.sampled_matmul': {'x': jnp.ones((4, 4))},
      'flows.mdgf': {'gain': schedules.fade_linear(0, 10)},
      'graph.register_primitive': {
          'name': 'a_primitive_of_a_test', 'wiring': lambda eqn: None},
      'masks.select_each': {
          'scores': {'k': values['scores']}, 'patterns': {
              'k': jaxsparse.unstructured()}, 'kept': {'k': .5}},
      'masks.select': {'sparsity': .5},
      'packed.pack': {'w': sparse, 'axis': -2},
      'packed.matmul': {'w': jaxsparse.pack(sparse), 'implementation': 'xla'},
      'packed.condense': {'w': sparse, 'mask_or_pattern': values['mask']},
      'packed.uncondense': {'w': packed.condense(sparse, values['mask'])},
      'packed.pack_params': {
          'params': jaxsparse.apply_masks(values['params'], values['masks']),
          'masks_or_rules': values['masks']},
      'packed.unpack_params': {'params': values['params']},
      'packed.partition_specs': {'w': jaxsparse.pack(sparse)},
      'packed.with_layout': {'packed': jaxsparse.pack(sparse)},
      'packed.unpack': {'packed': jaxsparse.pack(sparse)},
      'packed.training_matmul': {'implementation': 'xla', 'check': False},
      'rules.stages': {'rules': {0: values['rule']}},
      'rules.progressive': {'every': 1},
      'scores.adaptive_threshold': {'fraction': .1},
      'training.check_resume': {'params': values['params']},
      'transform.sparsify': {'flow': flows.hard()},
      'units.prune_units': {
          'groups': units.neurons(values['ties']), 'sparsity': .5,
          'importance': units.mean_magnitude()},
      'units.find_permutation': {'scores': values['w']},
      'units.keep_units': {'ties': units.neurons(values['ties']), 'count': 4},
      'units.sensitivity': {'batches': [(values['x'],)]},
      'training.observed': {'opt_state': jaxsparse.observe(
          values['tx']).init(values['params'])},
      'calibration.refit': {'h': jnp.eye(4)},
      'calibration.reconstruct': {
          'optimizer': optax.sgd(.1), 'dense': values['params'],
          'params': jaxsparse.apply_masks(
              values['params'], values['masks']), 'steps': 1,
          'block': lambda path: path.partition('/')[0]},
      'calibration.owl': {'patterns': jaxsparse.unstructured(),
                          'block': lambda path: path.partition('/')[0]},
      'calibration.one_shot': {'patterns': jaxsparse.nm(2, 4),
                               'sparsity': None, 'method': 'magnitude'},
      'flows.apply_masks': {'gain': 0.},
  }.get(name, {})


def _mixture() -> dict[str, Any]:
  """Two experts and their router."""
  def fn(params, x):
    gates = jax.nn.softmax(x @ params['router'])
    return jnp.einsum('te,tef->tf', gates, jnp.einsum(
        'td,edf->tef', x, params['experts']))
  params = {'router': jnp.ones((4, 2)), 'experts': jnp.ones((2, 4, 4))}
  x = _values()['x']
  return {'fn': fn, 'params': params, 'batches': [(x,)],
          'ties': units.experts(jaxsparse.infer_ties(fn, params, x))}


def _of_nn(short: str) -> dict[str, Any]:
  model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu,
                         nnx.Linear(8, 4, rngs=nnx.Rngs(1)))
  graph_of, params = nnx.split(model)
  values = _values()
  ties = jaxsparse.infer_ties(
      lambda p, x: nnx.merge(graph_of, p)(x), params, values['x'])
  masks_of = jax.tree.map(
      lambda w: jaxsparse.select(jnp.abs(w), jaxsparse.nm(2, 4))
      if w.ndim == 2 else None, params)
  if short == 'pack_model':
    model = nnx.merge(graph_of, jaxsparse.apply_masks(params, masks_of))
  return {'model': model, 'ties': ties, 'keep': jaxsparse.alive(params, ties),
          'masks_or_rules': masks_of, 'lhs': values['x'], 'rhs': values['w'],
          'dimension_numbers': (((1,), (0,)), ((), ())),
          'implementation': 'xla', 'f': lambda w, x: x @ w}


@functools.cache
def good_call(name: str) -> tuple[Any, dict[str, Any]]:
  """A public function, and every argument that it needs or that is known."""
  function = functions()[name]
  values, own, arguments = _values(), _own(name), {}
  for parameter in inspect.signature(function).parameters.values():
    needed = parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_KEYWORD:
      continue
    if parameter.name in own:
      arguments[parameter.name] = own[parameter.name]
    elif needed:
      arguments[parameter.name] = values[parameter.name]
  return function, arguments


def call(function: Any, arguments: dict[str, Any]) -> Any:
  """The function of arguments by name, `*arguments` included."""
  named, positional = dict(arguments), []
  parameters = inspect.signature(function).parameters.values()
  if any(each.kind is each.VAR_POSITIONAL for each in parameters):
    for parameter in parameters:  # All before them are needed.
      if parameter.kind is parameter.VAR_POSITIONAL:
        positional += named.pop(parameter.name)
        break
      positional.append(named.pop(parameter.name))
  return function(*positional, **named)
