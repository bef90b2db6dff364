"""Newer methods under what stands around them: measured, counted, combined."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import training
from jaxsparse._utils import trees
from tests._lib import method_table
from tests._lib.compiled import once

pytestmark = pytest.mark.slow

_T = 8
_FREE = {'.*kernel': jaxsparse.unstructured()}
_NM = {'.*kernel': jaxsparse.nm(2, 4)}
# name -> (patterns, of which a method is made, and its sparsity in the end)
_METHODS = {
    's_ste': (_NM, lambda p: methods.s_ste(p, _T), .5),
    'cast': (_NM, lambda p: methods.cast(p, _T, every=2), .5),
    'step': (_NM, lambda p: methods.step(p, _T, switch=3), .5),
    'ac_dc': (_FREE, lambda p: methods.ac_dc(
        p, .75, _T, warm_up=1, period=2, fine_tune=2), .75),
    'granet': (_FREE, lambda p: methods.granet(p, .75, _T, every=2, end=6),
               .75),
    'elsa': (_FREE, lambda p: methods.elsa(p, .75, _T, every=2), .75)}


def _params():
  shapes = {'a': (8, 16), 'b': (16, 4)}
  return {name: {'kernel': jax.random.normal(jax.random.key(i), shape),
                 'bias': jnp.zeros(shape[1])}
          for i, (name, shape) in enumerate(shapes.items())}


def _apply(params, x):
  hidden = jax.nn.relu(x @ params['a']['kernel'] + params['a']['bias'][None])
  return hidden @ params['b']['kernel'] + params['b']['bias'][None]


_X = jnp.sin(jnp.arange(80.)).reshape(10, 8)


def _run(tx):
  """Params and state before each step, and after the last."""
  @once
  def step(params, state):
    grads = jax.grad(lambda p: jnp.mean(jnp.square(_apply(p, _X) - 1.)))(
        jaxsparse.sparse_params(params, state))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  params = _params()
  history = [(params, jax.jit(tx.init)(params))]
  for _ in range(_T):
    history.append(step(*history[-1]))
  return history


@functools.cache
def _observed(name):
  patterns, make, _ = _METHODS[name]
  return _run(jaxsparse.observe(
      method_table.wrap(optax.adamw(1e-2), make(patterns))))


def _kernels(tree):
  return {path: np.array(w) for path, w in zip(
      trees.paths(tree), jax.tree.leaves(tree)) if path.endswith('kernel')}


@pytest.mark.parametrize('name', _METHODS)
def test_what_is_observed_is_what_happened(name):
  history = _observed(name)
  seen = jaxsparse.observed(history[-1][1])
  assert set(seen) == {'a/kernel', 'b/kernel'}
  for path, statistics in seen.items():
    forward, visited = [], False
    for params, state in history:
      mask = _kernels(jaxsparse.get_masks(state))[path]
      held = jaxsparse.transform.state_of(state).gain is None
      # A weight that has grown takes part, though it begins at zero.
      forward.append((mask if held else _kernels(
          jaxsparse.sparse_params(params, state))[path] != 0).mean())
      visited = visited | mask
    np.testing.assert_allclose(
        statistics.forward, np.mean(forward[:-1]), rtol=1e-6)
    np.testing.assert_allclose(statistics.explored, visited.mean(), rtol=1e-6)


@pytest.mark.parametrize('name', _METHODS)
def test_costs_and_summaries_are_those_of_what_is_deployed(name):
  params, state = _observed(name)[-1]
  sparse, masks = (jaxsparse.sparse_params(params, state),
                   jaxsparse.get_masks(state))
  kernels = _kernels(sparse)
  counted = jaxsparse.flops(_apply, sparse, _X)
  left = {path: (w != 0).mean() for path, w in kernels.items()}
  if name != 'granet':  # A weight that grew at the last step is zero as yet.
    assert counted.forward(masks) == pytest.approx(counted.forward(left))
  assert jaxsparse.summary(sparse, masks).sparsity == pytest.approx(
      _METHODS[name][2], abs=.01)
  assert all(not w[~m].any() for w, m in zip(
      kernels.values(), _kernels(masks).values()))


@pytest.mark.parametrize('name', ['s_ste', 'cast', 'step', 'elsa'])
def test_a_rehearsal_tells_the_densities(name):
  patterns, make, _ = _METHODS[name]
  plan = training.rehearse(make(patterns), _params(), steps=_T)
  seen = jaxsparse.observed(_observed(name)[-1][1])
  for path, statistics in plan.items():
    np.testing.assert_allclose(statistics.forward, seen[path].forward)
    np.testing.assert_allclose(statistics.gradient, seen[path].gradient)


@pytest.mark.parametrize('name', [n for n in _METHODS if n != 'elsa'])
def test_a_method_may_be_a_later_stage(name):
  patterns, make, sparsity = _METHODS[name]
  method = make(patterns)
  everything = {'.*kernel': jaxsparse.nm(4, 4)} if patterns is _NM else {
      '.*kernel': jaxsparse.unstructured(0.)}
  rule = jaxsparse.stages({
      0: jaxsparse.prune(everything), 4: method.rule})
  flow = method.flow._replace(forward=None)  # Scales are those of the start.
  history = _run(method_table.wrap(optax.adamw(1e-2), rule, flow))
  assert all(m.all() for _, state in history[:4]
             for m in _kernels(jaxsparse.get_masks(state)).values())
  params, state = history[-1]
  assert jaxsparse.summary(
      params, jaxsparse.get_masks(state)).sparsity == pytest.approx(
          sparsity, abs=.01)


def test_a_method_with_an_account_of_its_own_is_no_stage():
  method = methods.elsa(_FREE, .75, _T, every=2)
  rule = jaxsparse.stages({0: jaxsparse.prune(_FREE, sparsity=.5),
                           4: method.rule})
  with pytest.raises(ValueError, match='ElsaState'):
    rule.init(_params())


@pytest.mark.parametrize('name', _METHODS)
def test_combine_leaves_the_other_layers_to_another_rule(name):
  patterns, make, sparsity = _METHODS[name]
  pattern, = patterns.values()
  if name == 'cast':
    make = lambda p: methods.cast(p, _T, every=2, rescale=False)
  method = make({'a/kernel': pattern, '.*': None})
  flow = method.flow._replace(forward=None) if name == 's_ste' else method.flow
  other = {'b/kernel': jaxsparse.nm(1, 4), '.*': None}
  rule = jaxsparse.combine(method.rule, jaxsparse.prune(other))
  _, state = _run(method_table.wrap(optax.adamw(1e-2), rule, flow))[-1]
  masks = _kernels(jaxsparse.get_masks(state))
  assert masks['a/kernel'].mean() == pytest.approx(1. - sparsity, abs=.01)
  np.testing.assert_array_equal(
      masks['b/kernel'].reshape(4, 4, 4).sum(1), 1)


def test_scales_for_the_weights_of_another_rule_are_a_taught_error():
  method = methods.cast({'a/kernel': jaxsparse.nm(2, 4), '.*': None}, _T,
                        every=2)
  rule = jaxsparse.combine(method.rule, jaxsparse.prune(
      {'b/kernel': jaxsparse.nm(1, 4), '.*': None}))
  with pytest.raises(ValueError, match='another rule.*rescale=False'):
    jaxsparse.sparsify(optax.sgd(.1), rule, method.flow).init(_params())


def test_learned_masks_are_counted_like_any_others():
  params = _params()
  learned = methods.learned_masks(_NM, _T)
  logits = learned.init(jax.random.key(0), params)
  masks = learned.masks(params, logits)
  sparse = jaxsparse.apply_masks(params, masks)
  assert jaxsparse.summary(sparse, masks).sparsity == .5
  counted = jaxsparse.flops(_apply, params, _X)
  assert 2 * counted.forward(masks) == counted.total
