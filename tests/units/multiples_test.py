"""Numbers of units are multiples: down to choose, up to cut."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import schedules
from jaxsparse import units
from jaxsparse.units import multiples
from jaxsparse.units.choice import Budget
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from tests._lib import exchanges
from tests._lib.near import same

pytestmark = pytest.mark.slow


def _layers(sizes):
  return st.lists(st.tuples(sizes, st.sampled_from([1, 2, 4, 8])),
                  min_size=1, max_size=5)


_LAYERS = _layers(st.integers(1, 40))
# So that programs are compiled for few shapes.
_FEW_SIZES = _layers(st.sampled_from([1, 3, 8, 20, 37]))


def _allowed(kept, size, step):
  return kept == size or kept % step == 0 and kept >= min(size, step)


@settings(max_examples=200, deadline=None)
@given(_LAYERS, st.floats(0., 1.))
def test_shares_are_multiples_whose_sum_is_near_and_not_above(layers, share):
  sizes, steps = map(list, zip(*layers))
  counts = [max(1, round(share * n)) for n in sizes]
  kept = multiples.share(counts, sizes, steps)
  assert all(map(_allowed, kept, sizes, steps))
  # None is a step or more away, but for the first multiple.
  for k, n, size, step in zip(kept, counts, sizes, steps):
    assert abs(k - n) < step or k == min(size, step)
  if all(n >= min(size, step) for n, size, step in zip(counts, sizes, steps)):
    assert sum(kept) <= sum(counts)


def test_shares_by_hand():
  share = lambda counts, steps: multiples.share(counts, [16, 32, 64], steps)
  assert share([10, 19, 38], [1, 1, 1]) == [10, 19, 38]
  # 8, 16, 32 frees 2 + 3 + 6: eight go to the last, which lost most.
  assert share([10, 19, 38], [8, 8, 8]) == [8, 16, 40]
  assert share([10, 19, 38], [16, 16, 16]) == [16, 16, 32]
  assert share([16, 32, 64], [8, 8, 8]) == [16, 32, 64]
  # Of equals it is the first.
  assert multiples.share([12, 12], [16, 16], [8, 8]) == [16, 8]


def _by_rank(scores, total, fewest, steps):
  """One block after the other, the highest mean first, while it fits."""
  kept = [multiples.up(k, len(x), s) for x, k, s in zip(scores, fewest, steps)]
  total = max(total, sum(kept))
  while True:
    blocks = [(x[k:k + s].mean(), -i, len(x[k:k + s])) for i, (x, k, s) in (
        enumerate(zip(scores, kept, steps))) if k < len(x)]
    _, i, size = max(blocks, default=(0, 0, total + 1))
    if sum(kept) + size > total:
      return kept
    kept[-i] += size


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_FEW_SIZES, st.integers(0, 2**31), st.floats(0., 1.), st.floats(0., 1.))
def test_blocks_compete_by_their_means(layers, seed, share, floor):
  rng, (sizes, steps) = np.random.default_rng(seed), zip(*layers)
  # Integers below 2^10, so that sums are exact and means of one size alike.
  scores = [np.sort(rng.permutation(1000)[:n])[::-1].astype(np.float32)
            for n in sizes]
  total = int(share * sum(sizes))
  fewest = [max(1, int(floor * share * n)) for n in sizes]
  kept = [int(k) for k in multiples.share_by_rank(
      [jnp.array(x) for x in scores], jnp.int32(total), fewest, steps)]
  assert all(map(_allowed, kept, sizes, steps))
  assert kept == _by_rank(scores, total, fewest, steps)


_SIZES, _STEPS = (16, 32, 20, 6), (8, 8, 8, 8)


def _scores(seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.random(n), jnp.float32) for n in _SIZES]


@pytest.mark.parametrize('options', [
    dict(sparsity=.4), dict(sparsity=.4, scope='global'),
    dict(sparsity=.4, scope='global', floor=.9), dict(count=8)])
def test_under_jit_every_share_of_the_way_has_multiples_and_none_come_back(
    options):
  budget, scores = Budget(**options), _scores()
  keep = jax.jit(lambda progress: budget.keep(scores, progress, steps=_STEPS))
  before = [np.ones(n, bool) for n in _SIZES]
  for progress in np.linspace(0, 1, 21, dtype=np.float32):
    now = [np.asarray(k) for k in keep(progress)]
    for k, last, size in zip(now, before, _SIZES):
      assert _allowed(k.sum(), size, 8)
      assert not (k & ~last).any()
    before = now
  assert all(before[-1])  # The narrow one keeps its width.
  if options == dict(sparsity=.4, scope='global'):
    asked = round(.6 * sum(_SIZES))
    assert asked - 8 < sum(k.sum() for k in before) <= asked


def test_the_highest_of_a_tie_stay():
  scores = _scores()
  keep = jax.jit(lambda scores: Budget(sparsity=.4, scope='global').keep(
      scores, steps=_STEPS))(scores)
  for x, k in zip(scores, keep):
    top = np.zeros(len(x), bool)
    top[np.argsort(-np.asarray(x), kind='stable')[:int(k.sum())]] = True
    np.testing.assert_array_equal(k, top)


def test_a_multiple_of_one_changes_nothing():
  for options in (dict(sparsity=.4), dict(sparsity=.4, scope='global')):
    budget = Budget(**options)
    for a, b in zip(*jax.jit(lambda scores, budget=budget: (
        budget.keep(scores), budget.keep(scores, steps=[1] * 4)))(_scores())):
      np.testing.assert_array_equal(a, b)


def test_kept_units_by_hand():
  ties = [Tie(4, (Member('a', 0),), name='a'),
          Tie(4, (Member('b', 0),), name='b')]
  found = {'a': np.array([9., 5., 3., 2.]), 'b': np.array([6., 1., 1., 5.])}
  keep = units.keep_units(found, ties, sparsity=.25, scope='global', multiple=2)
  # Norms are 10.9 and 7.9: the means of second blocks are .23 and .13.
  assert [k.astype(int).tolist() for k in keep.values()] == [
      [1, 1, 1, 1], [1, 0, 0, 1]]
  keep = units.keep_units(found, ties, sparsity=.25, multiple=2)
  assert [k.sum() for k in keep.values()] == [4, 2]
  keep = units.keep_units(found, ties, count=2, multiple=2)
  assert [k.sum() for k in keep.values()] == [2, 2]


def _heads(*, flat):
  """Six heads of four dimensions, in axes of their own or in one."""
  if flat:
    heads = Member('w', 1, stride=4, repeats=((4, 1),))
    dims = Member('w', 1, along=((1, 4),))
  else:
    heads, dims = Member('w', 1), Member('w', 2, along=((1, 1),))
  return [Tie(6, (heads,), name='heads'),
          Tie(4, (dims,), (6,), name='dims'),
          Tie(20, (Member('w', 0),), name='stream')]


@pytest.mark.parametrize('flat', [False, True])
def test_heads_are_any_number_and_their_dimensions_a_multiple(flat):
  ties = _heads(flat=flat)
  assert multiples.steps(ties, 2) == [1, 2, 2]
  shape = (20, 24) if flat else (20, 6, 4)
  w = np.zeros(shape, np.float32)
  view = w.reshape(20, 6, 4)
  view[:, :5, :3] = 1.
  keep = jaxsparse.alive({'w': w}, ties, multiple=2)
  assert {n: k.sum(-1).tolist() for n, k in keep.items()} == {
      'heads': 5, 'dims': [4] * 6, 'stream': 20}


def test_a_unit_of_several_indices_counts_for_as_many():
  flattened = Member('head', 0, stride=1, repeats=((4, 6),))
  assert multiples.steps([Tie(6, (flattened,))], 8) == [2]
  # Where another parameter has one index a unit, that has to be a multiple.
  assert multiples.steps([Tie(6, (flattened, Member('conv', 3)))], 8) == [8]


def _pair(*, dead):
  rng = np.random.default_rng(0)
  params = {'a': rng.random((3, 20)).astype(np.float32),
            'b': rng.random((20, 2)).astype(np.float32)}
  params['b'][list(dead)] = 0.
  tie = Tie(20, (Member('a', 1, role='makes'), Member('b', 0, role='reads')),
            name='t')
  return params, [tie]


@pytest.mark.parametrize('alive, multiple, kept', [
    (9, 1, 9), (9, 8, 16), (16, 8, 16), (17, 8, 20), (1, 8, 8), (0, 8, 8),
    (3, 32, 20), (20, 8, 20)])
def test_the_alive_are_rounded_up(alive, multiple, kept):
  params, ties = _pair(dead=range(20 - alive))
  keep = jaxsparse.alive(params, ties, multiple=multiple)['t']
  # The first dead ones stay, too.
  assert keep.tolist() == [
      u < kept - alive or u >= 20 - alive for u in range(20)]
  small = jaxsparse.slim(params, ties, {'t': keep})
  same(small['a'] @ small['b'], params['a'] @ params['b'])


def test_groups_round_up_together():
  tie = Tie(8, (Member('w', 1, along=((0, 1),)),), along=(2,), name='t')
  w = np.zeros((2, 8))
  w[0, 5:], w[1, 0] = 1., 1.
  assert jaxsparse.alive({'w': w}, [tie], multiple=4)['t'].tolist() == [
      [True] + [False] * 4 + [True] * 3, [True] * 4 + [False] * 4]


_PATTERNS = {'.*kernel': jaxsparse.unstructured(), '.*': None}
_SHAPES = {'x': (6, 12), 'y': (12, 10), 'z': (10, 4)}
_TIES = [
    Tie(12, (Member('x/kernel', 1, role='makes'),
             Member('y/kernel', 0, role='reads')), name='first'),
    Tie(10, (Member('y/kernel', 1, role='makes'),
             Member('z/kernel', 0, role='reads')), name='second')]


def _run(rule, steps):
  params = exchanges.make_params('xyz', _SHAPES)
  state, history = jax.jit(rule.init)(params), []
  update = jax.jit(lambda s: rule.update(params, s, params)[1])
  for _ in range(steps):
    state = update(state)
    history.append(np.split(np.asarray(state.alive), [12]))
  return state, history


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_units_die_a_multiple_at_a_time(scope):
  rule = units.prune_units(
      _TIES, importance=units.mean_magnitude(), sparsity=.5, scope=scope,
      multiple=4, schedule=schedules.cubic(0, 12))
  state, history = _run(rule, 14)
  counts = np.array([[a.sum() for a in step] for step in history])
  assert ((counts % 4 == 0) | (counts == [12, 10])).all()
  assert (np.diff(counts, axis=0) <= 0).all()
  # Half of 22 is 11. Layers: 6 and 5, of which a sum of 8 is a multiple.
  assert counts[-1].tolist() == [4, 4]
  assert (state.masks['x']['kernel'].any(0) == history[-1][0]).all()


def test_channels_of_patterns_die_a_multiple_at_a_time():
  rule = units.prune_units(
      {'x/kernel': jaxsparse.channel(-1), '.*': None}, sparsity=.3, multiple=4,
      importance=units.root_mean_square())
  params = exchanges.make_params('xyz', _SHAPES)
  state = rule.init(params)
  masks, _ = rule.update(params, state, params)
  assert int(masks['x']['kernel'].any(0).sum()) == 8  # .7 * 12 is 8.4.


def test_chase_keeps_multiples_and_the_total_of_weights():
  method = methods.chase(
      _PATTERNS, .7, 40, ties=_TIES, channel_sparsity=.4, every=4,
      prune_every=4, multiple=4)
  state, history = _run(method.rule, 40)
  counts = np.array([[a.sum() for a in step] for step in history])
  assert ((counts % 4 == 0) | (counts == [12, 10])).all()
  assert 13 - 4 < counts[-1].sum() <= 13
  kept = sum(int(m.sum()) for m in jax.tree.leaves(state.masks))
  assert kept == round(.3 * (72 + 120 + 40))


def test_errors_say_what_to_write():
  tie, found = _TIES[0], {'first': np.ones(12)}
  for multiple in (0, 2.5, None):
    with pytest.raises(ValueError, match='Write e.g. multiple=8'):
      units.keep_units(found, [tie], count=4, multiple=multiple)
    with pytest.raises(ValueError, match='Write e.g. multiple=8'):
      jaxsparse.alive({}, [], multiple=multiple)
  with pytest.raises(ValueError, match='Write e.g. count=8'):
    units.keep_units(found, [tie], count=6, multiple=4)
  with pytest.raises(ValueError, match='12.* units.* multiple=6'):
    units.keep_units(found, [tie], sparsity=.5, multiple=128)
  rule = units.prune_units(
      _TIES, importance=units.mean_magnitude(), sparsity=.5, multiple=128)
  with pytest.raises(ValueError, match='remove no unit'):
    rule.init(exchanges.make_params('xyz', _SHAPES))
  with pytest.raises(ValueError, match='multiple=8. Leave'):
    units.prune_units(_TIES, importance=units.root_mean_square(), threshold=0.,
                      multiple=8)
