"""Dynamic sparse training: every method against numpy over a hundred steps."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import transform
from tests._lib import exchanges
from tests._lib import method_table

# A hundred steps of every method.
pytestmark = pytest.mark.slow

_T, _EVERY, _SPARSITY = 100, 4, 0.6
_RECIPES = {
    'set': methods.set_training,
    'set_by_sign': functools.partial(methods.set_training, by_sign=True),
    'dsr': functools.partial(methods.dsr, every=2, threshold=.05),
    'snfs': methods.snfs,
    'rigl': methods.rigl,
    'itop': methods.rigl_itop,
    'mest_em': functools.partial(
        methods.mest, soft_bound=False, scale=exchanges.SCALE),
    'mest': functools.partial(methods.mest, scale=exchanges.SCALE),
    'chase': functools.partial(
        methods.chase, ties=(), channel_sparsity=0., surplus=.1,
        prune_every=_EVERY),
}
_LAYERS = dict.fromkeys(('dsr', 'snfs', 'chase'), 'abc')  # 'ab' otherwise.
_ENDS = {'rigl': 75, 'mest_em': 72, 'mest': 72, 'chase': 80}
# Quarters of 25 steps with periods of 2, 4, 8 and 16.
_DSR = [*range(2, 26, 2), *range(29, 51, 4), *range(58, 76, 8), 91]


def _recipe(name, total_steps=_T):
  make = _RECIPES[name]
  if name != 'dsr':
    make = functools.partial(make, every=_EVERY)
  return make(exchanges.FREE, _SPARSITY, total_steps)


def _params(name):
  return exchanges.make_params(_LAYERS.get(name, 'ab'))


def _wrapped(name, inner=None):
  return method_table.wrap(inner or optax.sgd(exchanges.RATE), *_recipe(name))


@functools.cache
def _history(name):
  return exchanges.run(
      jaxsparse.observe(_wrapped(name)), _T, params=_params(name))


def _steps(name):
  """The steps at which connections move, by the papers' periods."""
  return _DSR if name == 'dsr' else [
      *range(_EVERY, _ENDS.get(name, _T) + (name not in ('rigl', 'snfs')),
             _EVERY)]


def _exchanges(name):
  """Each step at which connections move, its number, and the next."""
  history = _history(name)
  return [(t, history[t - 1], history[t]) for t in _steps(name)]


def _counts(masks):
  return [int(m.sum()) for m in masks.values()]


def _floor(share, n):
  return int(np.floor(share * n))


@pytest.mark.parametrize('name', _RECIPES)
def test_pruned_weights_are_zero_and_biases_dense_at_every_step(name):
  for step in _history(name):
    assert all(path.endswith('kernel') for path in step.masks)
    for path, mask in step.masks.items():
      assert not step.weights[path][~mask].any()
  first, last = _history(name)[0].params, _history(name)[-1].params
  assert all((first[k]['bias'] != last[k]['bias']).all() for k in first)


@pytest.mark.parametrize('name', _RECIPES)
def test_connections_move_at_their_steps_and_at_no_other(name):
  history, moved = _history(name), set()
  for t in range(1, _T + 1):
    if any((history[t].masks[p] != m).any()
           for p, m in history[t - 1].masks.items()):
      moved.add(t)
  assert moved <= set(_steps(name))
  assert len(moved) > len(_steps(name)) / 2


@pytest.mark.parametrize('name', [
    'set', 'set_by_sign', 'rigl', 'itop', 'mest_em'])
def test_every_layer_keeps_its_count(name):
  counted = [_counts(step.masks) for step in _history(name)]
  assert counted == counted[:1] * (_T + 1)
  assert abs(sum(counted[0]) - (1 - _SPARSITY) * 160) <= 1


@pytest.mark.parametrize('name', ['dsr', 'snfs'])
def test_layers_that_share_keep_the_total(name):
  counted = [_counts(step.masks) for step in _history(name)]
  assert {sum(c) for c in counted} == {sum(counted[0])}
  assert len({tuple(c) for c in counted}) > 3


@pytest.mark.parametrize('name', ['set', 'set_by_sign'])
def test_new_connections_of_set_are_uniform_among_all_others(name):
  hits = {p: np.zeros(m.size) for p, m in _history(name)[0].masks.items()}
  expected = {p: np.zeros_like(h) for p, h in hits.items()}
  for _, step, new in _exchanges(name):
    for path, mask in step.masks.items():
      # Only what was not active before: the others have been dropped or not.
      grown = new.masks[path] & ~mask
      hits[path] += grown
      expected[path] += ~mask * grown.sum() / (~mask).sum()
  for path, e in expected.items():
    assert (np.abs(hits[path] - e) < 4.5 * np.sqrt(e) + 1).all(), path


def test_set_drops_the_smallest_magnitudes():
  """What is dropped is grown again as rarely as chance has it."""
  again, expected = 0, 0.
  for _, step, new in _exchanges('set'):
    for path, mask in step.masks.items():
      n = mask.sum()
      goes = _floor(.3, n)
      stay = exchanges.top(np.abs(step.weights[path]), mask, n - goes)
      assert new.masks[path][stay].all()
      again += (new.masks[path] & mask & ~stay).sum()
      expected += goes * goes / (mask.size - n + goes)
  assert abs(again - expected) < 4.5 * np.sqrt(expected)


def test_set_by_sign_takes_its_share_of_either_sign():
  for _, step, new in _exchanges('set_by_sign'):
    for path, mask in step.masks.items():
      w, n = step.weights[path], int(mask.sum())
      positive = mask & (w >= 0)
      goes, above = _floor(.3, n), int(positive.sum())
      first = goes * above // n
      second = min(goes - first, n - above)
      stay = exchanges.top(-w, mask & ~positive, 0)
      stay |= exchanges.top(w, positive, above - (goes - second))
      stay |= exchanges.top(-w, mask & ~positive, n - above - second)
      assert new.masks[path][stay].all()
      assert new.masks[path].sum() == n


def test_dsr_drops_below_a_threshold_that_follows_its_rule():
  threshold, seen = .05, set()
  for t, step, new in _exchanges('dsr'):
    below, total = 0, 0
    for path, mask in step.masks.items():
      stay = mask & (np.abs(step.weights[path]) >= np.float32(threshold))
      assert new.masks[path][stay].all()
      below, total = below + (mask & ~stay).sum(), total + mask.sum()
    share = below / total
    factor = .5 if share > .11 else 2. if share < .09 else 1.
    threshold *= factor
    seen.add(factor)
    state = transform.state_of(new.state).rule.scores[0]
    assert float(state.threshold) == np.float32(threshold), t
  assert seen == {.5, 1., 2.} or seen == {.5, 2.}


def test_dsr_grows_in_proportion_to_survivors():
  threshold = .05
  for _, step, new in _exchanges('dsr'):
    stay = {p: m & (np.abs(step.weights[p]) >= np.float32(threshold))
            for p, m in step.masks.items()}
    threshold = float(transform.state_of(new.state).rule.scores[0].threshold)
    survivors = np.array(_counts(stay))
    room = np.array([m.size for m in stay.values()]) - survivors
    grown = np.array(_counts(new.masks)) - survivors
    ideal = exchanges.shares(grown.sum(), survivors, room)
    assert (np.abs(grown - ideal) <= 1).all(), (grown, ideal)


def _snfs():
  """Survivors, momentum and growth of every exchange."""
  for t, step, new in _exchanges('snfs'):
    share = .5 * exchanges.cosine(t, _T)
    stay = {p: exchanges.top(np.abs(step.weights[p]), m,
                             m.sum() - _floor(share, m.sum()))
            for p, m in step.masks.items()}
    state = transform.state_of(new.state).rule.scores[1]
    momentum = {p: np.abs(m) for p, m in exchanges.flat(state.mean).items()}
    grown = np.array(_counts(new.masks)) - np.array(_counts(stay))
    yield step, new, stay, momentum, grown


def test_snfs_keeps_running_means_of_dense_gradients():
  mean, history = None, _history('snfs')
  for step, new in zip(history, history[1:]):
    mean = {p: .1 * g.astype(np.float64) + (.9 * mean[p] if mean else 0.)
            for p, g in step.grads.items()}
    state = transform.state_of(new.state).rule.scores[1]
    for path, m in exchanges.flat(state.mean).items():
      np.testing.assert_allclose(m, mean[path], atol=1e-5)


def test_snfs_shares_growth_by_mean_momentum():
  for step, _, stay, momentum, grown in _snfs():
    ideal = exchanges.shares(
        grown.sum(), [momentum[p][m].mean() for p, m in step.masks.items()],
        [_floor(.99, (~m).sum()) for m in stay.values()])
    assert (np.abs(grown - ideal) <= 1).all(), (grown, ideal)


def test_snfs_drops_by_magnitude_and_grows_by_momentum():
  for _, new, stay, momentum, grown in _snfs():
    for (path, s), n in zip(stay.items(), grown):
      expected = s | exchanges.top(momentum[path], ~s, n)
      np.testing.assert_array_equal(new.masks[path], expected)


def _itop(t):
  return .005 + .495 * exchanges.cosine(t, _T)


@pytest.mark.parametrize('name', ['rigl', 'itop'])
def test_gradients_decide_what_rigl_grows(name):
  for t, step, new in _exchanges(name):
    share = _itop(t) if name == 'itop' else .3 * exchanges.cosine(t, 75)
    for path, mask in step.masks.items():
      expected = exchanges.exchanged(
          mask, np.abs(step.weights[path]), np.abs(step.grads[path]),
          goes=_floor(share, mask.sum()))
      np.testing.assert_array_equal(new.masks[path], expected)


def test_a_fading_fraction_ends_at_the_step_it_was_told():
  """And not at the last period before it: 0.196 of 1,000, and not 0.183."""
  params = {'kernel': jnp.arange(1., 2001.)}
  rule = methods.rigl(exchanges.FREE, .5, 1_000).rule
  state = rule.init(params)
  grown = {'kernel': jnp.where(state.masks['kernel'], 0., 1.)}
  masks, _ = rule.update(grown, state._replace(count=jnp.int32(299)), params)
  assert (masks['kernel'] & ~state.masks['kernel']).sum() == _floor(
      .3 * exchanges.cosine(300, 750), 1_000) == 196


def test_chase_exchanges_on_to_the_end_if_told():
  """After its end as many go as come, in total, and none by default."""
  params = {'a': {'kernel': jnp.arange(1., 101.)},
            'b': {'kernel': jnp.arange(1., 51.)}}
  for last, moved in ((0., 0), (.04, 3)):
    rule = methods.chase(
        exchanges.FREE, .5, 100, every=10, ties=(), channel_sparsity=0.,
        surplus=0., last_fraction=last).rule
    state = rule.init(params)
    grads = jax.tree.map(lambda m: jnp.where(m, 0., 1.), state.masks)
    masks, _ = rule.update(grads, state._replace(count=jnp.int32(89)), params)
    new = [a & ~b for a, b in zip(
        jax.tree.leaves(masks), jax.tree.leaves(state.masks))]
    assert sum(int(m.sum()) for m in new) == moved
    assert sum(int(m.sum()) for m in jax.tree.leaves(masks)) == 75


def test_a_connection_grown_again_at_once_keeps_its_weight():
  """A new one starts from zero, and both move at once."""
  again = 0
  for t, step, new in _exchanges('itop'):
    for path, mask in step.masks.items():
      n, w = mask.sum(), step.weights[path]
      stay = exchanges.top(np.abs(w), mask, n - _floor(_itop(t), n))
      back, fresh = new.masks[path] & mask & ~stay, new.masks[path] & ~mask
      again += back.sum()
      moves = np.float32(exchanges.RATE) * step.grads[path]
      np.testing.assert_array_equal(
          new.weights[path][back], (w - moves)[back])
      np.testing.assert_array_equal(new.weights[path][fresh], -moves[fresh])
  assert again > 0


@pytest.mark.parametrize('replace_step', [True, False])
def test_the_replaced_step_moves_neither_weights_nor_the_optimizer(
    replace_step):
  tx = method_table.wrap(optax.adamw(1e-2), methods.rigl(
      exchanges.FREE, _SPARSITY, 40, every=3, replace_step=replace_step))
  history = exchanges.run(tx, 9, params=exchanges.make_params('b'))
  for t, (step, new) in enumerate(zip(history, history[1:]), start=1):
    held = replace_step and t % 3 == 0
    kept = step.masks['b/kernel'] & new.masks['b/kernel']
    same = step.weights['b/kernel'][kept] == new.weights['b/kernel'][kept]
    assert same.all() if held else not same.any()
    old, now = ((s.state.inner.inner if replace_step else s.state.inner)[0]
                for s in (step, new))
    same = [np.array_equal(old.count, now.count)] + [
        np.array_equal(before['b']['kernel'].ravel()[kept],
                       after['b']['kernel'].ravel()[kept])
        for before, after in ((old.mu, now.mu), (old.nu, now.nu))]
    assert all(same) == held
    assert held == np.array_equal(step.params['b']['bias'],
                                  new.params['b']['bias'])


@pytest.mark.parametrize('name', ['mest_em', 'mest'])
def test_mest_drops_by_magnitudes_and_gradients(name):
  budget = _counts(_history('mest_em')[0].masks)
  for t, step, new in _exchanges(name):
    p = .05 if t < 36 else .025 if t < 72 else 0.
    for (path, mask), b in zip(step.masks.items(), budget):
      score = np.abs(step.weights[path]) + np.float32(
          exchanges.SCALE) * np.abs(step.grads[path])
      left = b if name == 'mest' else b - _floor(p * mask.size, 1)
      stay = exchanges.top(score, mask, left)
      assert new.masks[path][stay].all()
      ends = b + _floor(p * mask.size, 1) if name == 'mest' else b
      assert new.masks[path].sum() == ends


def test_mest_starts_at_its_soft_bound_and_ends_within_the_budget():
  budget = _counts(_history('mest_em')[0].masks)
  first, last = (_counts(_history('mest')[t].masks) for t in (0, _T))
  assert first == [b + _floor(.05, n) for b, n in zip(budget, (128, 32))]
  assert last == budget


def test_chase_keeps_its_bound_in_total_at_every_step():
  history, bound = _history('chase'), None
  for t, step in enumerate(history):
    if t == 0 or t in _steps('chase'):
      bound = 93 + sum(_floor(.1 * exchanges.cosine(t, 80), n)
                       for n in (128, 32, 72))
    assert sum(_counts(step.masks)) == bound, t
  assert bound == 93 == round((1 - _SPARSITY) * 232)


def test_chase_prunes_to_the_budget_among_all_layers_and_grows_by_gradients():
  for t, step, new in _exchanges('chase'):
    bound = 93 + sum(_floor(.1 * exchanges.cosine(t, 80), n)
                     for n in (128, 32, 72))
    magnitudes, gradients = (
        {p: np.abs(x) for p, x in d.items()}
        for d in (step.weights, step.grads))
    expected = exchanges.together(
        lambda m, w, g, b=bound: exchanges.exchanged(
            m, w, g, goes=m.sum() - 93, to=b),
        step.masks, magnitudes, gradients)
    for path, mask in expected.items():
      np.testing.assert_array_equal(new.masks[path], mask, err_msg=str(t))


@pytest.mark.parametrize('name', _RECIPES)
def test_explored_is_the_size_of_the_union_of_all_masks(name):
  union = _history(name)[0].masks
  for step in _history(name)[1:]:
    union = {p: union[p] | m for p, m in step.masks.items()}
    seen = jaxsparse.observed(step.state)
    for path, m in union.items():
      np.testing.assert_allclose(seen[path].explored, m.mean(), rtol=1e-6)


@pytest.mark.parametrize('name', ['rigl', 'itop', 'snfs', 'set', 'chase'])
def test_gradients_are_counted_as_dense_where_they_are_read(name):
  history, spent = _history(name), {p: 0. for p in _history(name)[0].masks}
  for t, step in enumerate(history[:-1], start=1):
    dense = name == 'snfs' or (name != 'set' and t in _steps(name))
    for path, mask in step.masks.items():
      spent[path] += 1. if dense else mask.mean()
  for path, seen in jaxsparse.observed(history[-1].state).items():
    np.testing.assert_allclose(seen.gradient, spent[path] / _T, rtol=1e-5)
  if name == 'itop':
    d = next(iter(history[0].masks.values())).mean()
    np.testing.assert_allclose(spent['a/kernel'] / _T, d + (1 - d) / _EVERY)


def _of_kept(kept, like, tree):
  """Zeroes moments of weights that are not kept; leaves other trees alone."""
  if jax.tree.structure(tree) != like:
    return tree
  return jax.tree.map(
      lambda x, m: x if m is None or np.shape(m) != np.shape(x) else
      np.where(m, x, 0.).astype(x.dtype), tree, kept)


@pytest.mark.parametrize('inner', [
    optax.adamw(1e-2), optax.sgd(1e-2, momentum=.9), optax.lion(1e-3),
    optax.adafactor(1e-2, min_dim_size_to_factor=1000, momentum=.9)],
    ids=['adamw', 'sgd', 'lion', 'adafactor'])
def test_new_connections_start_with_neither_weight_nor_history(inner):
  """Their first step is that of an optimizer that knows nothing of them."""
  tx = method_table.wrap(
      inner, methods.set_training(exchanges.FREE, _SPARSITY, 9, every=2))
  history = exchanges.run(tx, 9, params=exchanges.make_params('b'))
  fresh, update = 0, jax.jit(inner.update)
  for i, (step, new) in enumerate(zip(history, history[1:])):
    old, masks = (jaxsparse.get_masks(s.state) for s in (step, new))
    kept = jax.tree.map(jax.numpy.logical_and, old, masks)
    like = jax.tree.structure(new.params)

    known = functools.partial(_of_kept, kept, like)
    known_state = jax.tree.map(
        known, step.state.inner,
        is_leaf=lambda t, like=like: jax.tree.structure(t) == like)
    point, grads = (jaxsparse.apply_masks(
        jax.tree.map(jax.numpy.asarray, tree), masks) for tree in (
            step.params, exchanges.make_grads(step.params, np.int32(i))))
    with jax.numpy_dtype_promotion('standard'):
      updates, state = update(
          grads, jax.tree.map(jax.numpy.asarray, known_state), point)
    chex.assert_trees_all_close(
        new.params, optax.apply_updates(point, updates), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(new.state.inner, state, rtol=1e-4, atol=1e-6)
    fresh += sum((new.masks[p] & ~m).sum() for p, m in step.masks.items())
  assert fresh > 0


def _in_two_parts(name):
  multi = optax.MultiSteps(_wrapped(name), 2)

  def update(*args, **kwargs):
    with jax.numpy_dtype_promotion('standard'):
      return multi.update(*args, **kwargs)
  return optax.GradientTransformation(multi.init, update)


@pytest.mark.parametrize('name', ['mest'])
def test_steps_in_parts_and_states_from_disk_make_the_same_masks(name):
  def place(params, state):
    leaves, structure = jax.tree.flatten((params, state))
    return structure.unflatten([jax.numpy.array(np.array(x)) for x in leaves])
  history = exchanges.run(
      _in_two_parts(name), 18, place=place, params=_params(name),
      grads=lambda w, i: exchanges.make_grads(w, i // 2))
  for step, whole in zip(history[::2], _history(name)):
    chex.assert_trees_all_equal(step.masks, whole.masks)
    chex.assert_trees_all_equal(step.weights, whole.weights)


_SPECS = {(16, 8): P('x', 'y'), (8, 4): P('y', 'x'),
          (3, 3, 2, 4): P(None, None, 'y', 'x')}


@pytest.mark.parametrize('name', ['snfs'])
def test_masks_on_a_mesh_lie_as_their_weights_do_and_are_the_same(name):
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)
  seen = []

  def place(params, state):
    if not seen:  # The first topology depends on nothing but shapes.
      params, state = exchanges.lay_out((params, state), mesh, _SPECS)
    seen.append(exchanges.lie_as((params, state), mesh, _SPECS))
    return params, state

  with jax.set_mesh(mesh):
    history = exchanges.run(
        _wrapped(name), 9, params=_params(name), place=place)
  for step, whole in zip(history, _history(name)):
    chex.assert_trees_all_equal(step.masks, whole.masks)
  assert all(seen), seen


@pytest.mark.parametrize('make', [
    methods.set_training, methods.dsr, methods.snfs, methods.rigl,
    methods.rigl_itop,
    methods.mest, functools.partial(methods.chase, ties=(), prune_every=1)])
def test_a_period_longer_than_training_is_a_taught_error(make):
  with pytest.raises(ValueError, match='every=60.*total_steps=50.*Write'):
    make(exchanges.FREE, .5, 50, every=60)


@pytest.mark.parametrize('make, every', [
    (methods.rigl, 45), (methods.snfs, 60),
    (functools.partial(methods.mest, soft_bound=False), 40),
    (functools.partial(methods.rigl, end=30), 30)])
def test_an_exchange_of_nothing_is_a_taught_error(make, every):
  """Shares fade to 0 at the end, so an exchange there moves nothing."""
  with pytest.raises(ValueError, match='Connections would never move'):
    make(exchanges.FREE, .5, 60, every=every)
  make(exchanges.FREE, .5, 60, every=20)


@pytest.mark.parametrize('every, total_steps', [(0, 50), (-1, 50), (1, 0)])
def test_no_step_to_move_connections_in_is_a_taught_error(every, total_steps):
  with pytest.raises(ValueError, match='must be a whole number of 1'):
    methods.rigl(exchanges.FREE, .5, total_steps, every=every)


def test_dsr_without_a_step_in_any_quarter_is_a_taught_error():
  with pytest.raises(ValueError, match='Connections would never move'):
    methods.dsr(exchanges.FREE, .5, 200, every=100)


def test_chase_without_channels_needs_no_period_for_them():
  methods.chase(exchanges.FREE, .5, 100, every=4, ties=(), channel_sparsity=0.)


def test_the_period_of_channels_is_called_by_its_name():
  with pytest.raises(ValueError, match='prune_every=1000'):
    methods.chase(exchanges.FREE, .5, 100, every=4, ties=())


@pytest.mark.parametrize('shares', [(), (2.,), (-.1,), .05])
def test_shares_that_are_none_are_taught_errors(shares):
  with pytest.raises(ValueError, match='shares'):
    methods.mest(exchanges.FREE, .5, 100, every=4, shares=shares)


def test_mest_cannot_drop_more_than_there_is():
  with pytest.raises(ValueError, match='shares'):
    methods.mest(exchanges.FREE, .97, 100, every=4, soft_bound=False)


@pytest.mark.parametrize('options', [
    dict(sparsity=.5), dict(min_sparsity=.95), dict(max_sparsity=.8)], ids=str)
def test_mest_without_a_bound_refuses_patterns_of_another_sparsity(options):
  patterns = {'.*kernel': jaxsparse.unstructured(**options)}
  make = functools.partial(methods.mest, patterns, .9, 100, every=4)
  with pytest.raises(ValueError, match='kernel.*Write sparsity=0.'):
    make(soft_bound=False)
  make()
  methods.mest({'.*': jaxsparse.nm(2, 4), 'a': None}, .5, 100, every=4,
               shares=(.25,), soft_bound=False)


@pytest.mark.parametrize('make', [
    methods.set_training, methods.snfs, methods.rigl, methods.dsr])
def test_a_fraction_beyond_one_is_a_taught_error(make):
  with pytest.raises(ValueError, match='fraction'):
    make(exchanges.FREE, .5, 100, every=4, fraction=30.)
