"""SRigL against numpy, which reads the paper in its own way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import packed
from tests._lib import exchanges
from tests._lib import method_table

_PATTERNS = {'.*kernel': jaxsparse.unstructured(balanced=True)}
_T, _EVERY, _SPARSITY, _GAMMA, _SHARE = 100, 4, .75, 1., .3
_ENDS = 75
Member, Tie = jaxsparse.units.Member, jaxsparse.units.Tie
_UNITS = {'a': (16, 12), 'b': (12, 8), 'c': (8, 4)}
_TIES = [
    Tie(12, (Member('a/kernel', 1, role='makes'),
             Member('a/bias', 0, role='beside'),
             Member('b/kernel', 0, role='reads'))),
    Tie(8, (Member('b/kernel', 1, role='makes'),
            Member('c/kernel', 0, role='reads'))),
    Tie(4, (Member('c/kernel', 1, role='makes'),), fixed='an output')]
_RUNS = {
    'alone': (exchanges.SHAPES, {'spare': 'b/kernel'}),
    'tied': (_UNITS, {'ties': _TIES}),
}


@functools.cache
def _history(name):
  shapes, options = _RUNS[name]
  method = methods.srigl(
      _PATTERNS, jaxsparse.uniform(_SPARSITY), _T, every=_EVERY, gamma=_GAMMA,
      **options)
  tx = jaxsparse.observe(method_table.wrap(
      optax.sgd(exchanges.RATE, momentum=.5), *method))
  return exchanges.run(tx, _T, params=exchanges.make_params('abc', shapes))


def _columns(name, path, x):
  """`[inputs, neurons]`."""
  return x.reshape(-1, _RUNS[name][0][path[0]][-1])


def _target(x):
  return round((1 - _SPARSITY) * x.size)


def _moves(name):
  history = _history(name)
  return [(t, history[t - 1], history[t])
          for t in range(_EVERY, _ENDS, _EVERY)]


def _expected(w, g, mask, share, spared):
  """One layer whose neurons stand alone; all are `[inputs, neurons]`."""
  inputs, neurons = mask.shape
  target, kept = _target(mask), int(mask.sum())
  dropped = int(share * kept + 1e-3)  # A float32 may be a little less.
  anywhere = np.ones(mask.size, bool)

  def of_layer(score, among, k):
    return exchanges.top(score.ravel(), among.ravel(), k).reshape(mask.shape)
  by_weight = of_layer(np.abs(w), mask, kept - dropped)
  by_gradient = of_layer(np.abs(g), anywhere, dropped)
  salient = (by_weight | by_gradient).sum(0)
  least = max(1, int(_GAMMA * (target // neurons)))
  fewest = -(-target // inputs)
  least = min(least, sorted(salient, reverse=True)[fewest - 1])
  alive = np.ones(neurons, bool) if spared else salient >= least
  fan_in = target // alive.sum()
  left = of_layer(np.abs(w), mask & alive, kept - dropped)
  new = np.zeros_like(mask)
  for j in np.flatnonzero(alive):
    stay = exchanges.top(np.abs(w[:, j]), left[:, j], fan_in)
    new[:, j] = stay | exchanges.top(
        np.abs(g[:, j]), ~stay, fan_in - stay.sum())
  return new


@pytest.mark.slow
def test_masks_are_those_of_the_paper_at_every_step():
  died = came_back = 0
  history = _history('alone')
  for t, (step, new) in enumerate(zip(history, history[1:]), start=1):
    for path, mask in step.masks.items():
      before, w, g, after = (_columns('alone', path, x) for x in (
          mask, step.weights[path], step.grads[path], new.masks[path]))
      if t % _EVERY or t >= _ENDS:
        np.testing.assert_array_equal(after, before)
        continue
      share = _SHARE * exchanges.cosine(t, _ENDS)
      np.testing.assert_array_equal(after, _expected(
          w, g, before, share, path == 'b/kernel'), err_msg=f'{t} {path}')
      died += (before.any(0) & ~after.any(0)).sum()
      came_back += (~before.any(0) & after.any(0)).sum()
  assert died > 3 and came_back > 0


@pytest.mark.slow
@pytest.mark.parametrize('name', _RUNS)
def test_every_living_neuron_has_the_same_fan_in_at_every_step(name):
  for step in _history(name):
    inputs = None
    for path, mask in step.masks.items():
      columns = _columns(name, path, mask)
      living = int(columns.any(0).sum())
      fan_in, = {*columns.sum(0).tolist()} - {0}
      # Of tied layers as many inputs are left as neurons before them.
      most = inputs if name == 'tied' and inputs else len(columns)
      assert fan_in == min(_target(mask) // living, most)
      inputs = living
      assert path not in ('b/kernel' if name == 'alone' else 'c/kernel') or (
          living == columns.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize('name', _RUNS)
def test_new_connections_start_at_zero_and_the_others_keep_their_weights(name):
  again = 0
  for _, step, new in _moves(name):
    for path, mask in step.masks.items():
      kept = mask & new.masks[path]
      np.testing.assert_array_equal(
          new.weights[path], np.where(kept, step.weights[path], 0.))
      again += kept.sum()
  assert again


@pytest.mark.slow
def test_units_that_die_are_read_by_none_and_stay_dead():
  dead = {'a': np.zeros(12, bool), 'b': np.zeros(8, bool)}
  for step in _history('tied'):
    masks = {path: _columns('tied', path, m) for path, m in step.masks.items()}
    for maker, reader in ('ab', 'bc'):
      gone = ~masks[f'{maker}/kernel'].any(0)
      assert gone[dead[maker]].all()
      assert not masks[f'{reader}/kernel'][gone].any()
      dead[maker] = gone
  assert all(gone.any() for gone in dead.values())


@pytest.mark.slow
def test_gradients_count_as_dense_where_they_are_read():
  history = _history('alone')
  spent = {path: [
      1. if t % _EVERY == 0 and t < _ENDS else step.masks[path].mean()
      for t, step in enumerate(history[:-1], start=1)]
           for path in history[0].masks}
  for path, seen in jaxsparse.observed(history[-1].state).items():
    np.testing.assert_allclose(seen.gradient, np.mean(spent[path]), rtol=1e-5)
    union = np.any([step.masks[path] for step in history], axis=0)
    np.testing.assert_allclose(seen.explored, union.mean(), rtol=1e-6)


def _apply(params, x):
  hidden = jax.nn.relu(
      x @ params['a']['kernel'] + params['a']['bias'][None])
  return hidden @ params['b']['kernel']


@pytest.mark.slow
def test_what_is_left_of_a_trained_network_is_slim_and_condenses():
  shapes = {'a': (16, 24), 'b': (24, 4)}
  params = exchanges.make_params('ab', shapes)
  x = jax.random.normal(jax.random.key(8), (32, 16))
  ties = jaxsparse.infer_ties(_apply, params, x)
  method = methods.srigl(
      _PATTERNS, .8, 40, every=2, gamma=1., ties=ties)
  # Stages take the masks on, and lock them.
  rule = jaxsparse.stages({0: method.rule, 35: jaxsparse.lock(_PATTERNS)})
  tx = jaxsparse.sparsify(optax.sgd(.05, .9), rule, method.flow)
  state = jax.jit(tx.init)(params)
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))

  @jax.jit
  def step(params, state):
    grads = jax.grad(lambda p: jnp.mean(jnp.square(
        _apply(p, x) - jnp.sin(x[:, :4]))))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(40):
    params, state = step(params, state)
  masks = jaxsparse.get_masks(state)
  keep = jaxsparse.alive(params, ties)
  small = jaxsparse.slim(params, ties, keep)
  left = small['a']['kernel'].shape[1]
  assert 1 <= left < 24
  assert left == int(masks['a']['kernel'].any(0).sum())
  expected = _apply(params, x)
  np.testing.assert_allclose(_apply(small, x), expected, atol=1e-5)
  # Neither padding, nor a weight that is not read.
  a, b = (packed.condense(small[k]['kernel'], _PATTERNS['.*kernel'])
          for k in 'ab')
  hidden = jax.nn.relu(
      jaxsparse.matmul(x, a) + small['a']['bias'][None])
  np.testing.assert_allclose(jaxsparse.matmul(hidden, b), expected, atol=1e-5)
  kept = sum(int(m.sum()) for m in (masks['a']['kernel'], masks['b']['kernel']))
  assert a.values.size + b.values.size == kept
  counted = jaxsparse.flops(_apply, params, x)
  assert counted.total > jaxsparse.flops(_apply, small, x).total
  assert '24' in str(jaxsparse.masks.summary(params, masks))


def _fan_ins(method, params):
  masks = method.rule.init(params).masks
  return {k: {*m['kernel'].sum(tuple(range(m['kernel'].ndim - 1))).tolist()}
          for k, m in masks.items()}


def test_the_first_fan_in_is_the_target_over_the_neurons_but_at_least_one():
  params = exchanges.make_params()
  make = functools.partial(methods.srigl, _PATTERNS, total_steps=100, every=2,
                           gamma=0.)
  assert _fan_ins(make(sparsity=jaxsparse.uniform(.6)), params) == {
      'a': {51 // 8}, 'b': {13 // 4}, 'c': {29 // 4}}
  assert _fan_ins(make(sparsity=1.), params) == {'a': {1}, 'b': {1}, 'c': {1}}


def test_without_gamma_no_neuron_dies():
  params = {'kernel': jnp.array([[9., .1], [8., .2], [7., .3], [6., .4]])}
  for gamma, living in ((0., 2), (1., 1)):
    rule = methods.srigl(_PATTERNS, .5, 100, every=2, fraction=.5, gamma=gamma,
                         spare=()).rule
    state = rule.init(params)
    mask = jnp.array([[True, True], [True, True], [False] * 2, [False] * 2])
    masks, _ = rule.update(
        {'kernel': jnp.zeros((4, 2)).at[:, 0].set(5.)},
        state._replace(count=jnp.int32(1), masks={'kernel': mask}), params)
    assert masks['kernel'].any(0).sum() == living
    assert masks['kernel'].sum() == 4


@pytest.mark.parametrize('options, match', [
    ({}, 'neurons die.*ties=infer_ties.*spare='),
    ({'spare': (), 'gamma': 1.5}, 'gamma must be a share'),
    ({'spare': (), 'fraction': -.1}, 'fraction must be a share'),
    ({'spare': (), 'every': 60}, 'every=60.*total_steps=50.*Write'),
    ({'spare': (), 'every': 4, 'end': 2}, 'every=4, end=2.*Write'),
    ({'spare': (), 'every': 1}, 'srigl.*replace every step.*Write')])
def test_wrong_numbers_are_taught_errors(options, match):
  with pytest.raises(ValueError, match=f'(?s){match}'):
    methods.srigl(_PATTERNS, .5, 50, **{'every': 4, **options})


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(), jaxsparse.nm(2, 4), jaxsparse.nm(1, 1),
    jaxsparse.block((1, 4), balanced=True), jaxsparse.channel(-1)], ids=str)
def test_other_patterns_are_taught_errors(pattern):
  with pytest.raises(ValueError, match=r'Write unstructured\(balanced=True'):
    methods.srigl({'.*kernel': pattern}, .5, 50, every=4, spare=())


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.5, balanced=True),
    jaxsparse.block((1, 1), balanced=True)], ids=str)
def test_patterns_of_inputs_that_compete_are_taken(pattern):
  methods.srigl({'.*kernel': pattern}, .5, 50, every=4, spare=())


@pytest.mark.parametrize('pattern, shape', [
    (None, (4, 2)), (jaxsparse.unstructured(balanced=True), (0, 4))], ids=str)
def test_a_model_without_sparse_weights_is_left_alone(pattern, shape):
  rule = methods.srigl({'.*': pattern}, .5, 100, every=2, spare=()).rule
  params = {'w': jnp.ones(shape)}
  state = rule.init(params)
  for _ in range(2):  # With an exchange at the second.
    masks, state = rule.update(params, state, params)
  assert state.count == 2 and not any(
      mask.size for mask in jax.tree.leaves(masks))


def test_what_does_not_fit_the_params_is_told_by_init():
  params = exchanges.make_params('abc', _UNITS)
  make = functools.partial(methods.srigl, _PATTERNS, .5, 50, every=4)
  with pytest.raises(ValueError, match='head.*matches no parameter'):
    make(spare='head').rule.init(params)
  with pytest.raises(ValueError, match='No tie has units.*an output'):
    make(ties=_TIES[2:]).rule.init(params)


def test_the_step_that_is_not_replaced_moves_weights_too():
  params = {'kernel': jnp.ones((4, 2))}
  method = methods.srigl(
      _PATTERNS, .5, 8, every=1, replace_step=False, gamma=0.)
  tx = jaxsparse.sparsify(optax.sgd(.5), *method)
  state = tx.init(params)
  updates, _ = tx.update(params, state, params)
  assert (updates['kernel'] < 0).sum() >= 4
