"""Distributions: exact totals, bounds, and one threshold against one sort."""

from fractions import Fraction
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import distributions
from jaxsparse._utils import trees
from jaxsparse.distributions import er
from jaxsparse.distributions import erk
from jaxsparse.distributions import global_threshold
from jaxsparse.distributions import uniform
from jaxsparse.masks import selection
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import Tiling
from jaxsparse.patterns import unstructured

_PROGRESS = (0., .1, .37, .5, .9, 1.)
_FAN_IN = Pattern('fan_in', Tiling(rest=1), Tiling(((-1, 1),)))
_KINDS = ('normal', 'integers', 'constant', 'signed zeros', 'nan', 'all nan',
          'infinite', 'heavy', 'mostly zero', 'negative')


def integer(count):
  return int(count.hi) * 2**16 + int(count.lo)


def counts_of(kept):
  """The kept units of each group, leaf by leaf."""
  is_kept = lambda k: isinstance(k, selection.Kept)
  return [integer(k.count) for k in jax.tree.leaves(kept, is_leaf=is_kept)]


def shares(distribution, shapes, patterns_=None, progress=1.):
  """Kept units of weights of these shapes."""
  patterns_ = patterns_ or [unstructured()] * len(shapes)
  scores = [jnp.zeros(shape) for shape in shapes]
  return counts_of(distribution(scores, patterns_, progress))


def shares_under_way(distribution, shapes, patterns_=None):
  """The same at every one of `_PROGRESS`, traced."""
  patterns_ = patterns_ or [unstructured()] * len(shapes)
  scores = [jnp.zeros(shape) for shape in shapes]
  run = jax.jit(lambda progress: [
      k.count for k in distribution(scores, patterns_, progress)])
  return [[integer(c) for c in run(jnp.float32(p))] for p in _PROGRESS]


def on_the_way(n, final, progress):
  """round(n - p * (n - k)), halves to even, of a progress in float32."""
  return round(n - Fraction(float(np.float32(progress))) * (n - final))


def scores_of(kind, shape, dtype='float32', seed=0):
  rng, n = np.random.default_rng(seed), math.prod(shape)
  x = {
      'normal': lambda: rng.standard_normal(n),
      'integers': lambda: rng.integers(-2, 3, n),
      'constant': lambda: np.full(n, 3.),
      'signed zeros': lambda: rng.choice([0., -0., 1., -1.], n),
      'nan': lambda: rng.choice([np.nan, np.inf, -np.inf, 2., 0.], n),
      'all nan': lambda: np.full(n, np.nan),
      'infinite': lambda: rng.choice([np.inf, -np.inf], n),
      'heavy': lambda: rng.standard_cauchy(n)**3,
      'mostly zero': lambda: rng.standard_normal(n) * (rng.random(n) < .2),
      'negative': lambda: -rng.random(n),
  }[kind]()
  return jnp.asarray(np.asarray(x, np.float64).reshape(shape).astype(dtype))


# All distributions.


_ALL = {'uniform': uniform, 'erk': erk, 'er': er,
        'global_threshold': global_threshold}


@pytest.fixture(params=_ALL, name='make')
def _make(request):
  return _ALL[request.param]


@pytest.mark.parametrize('sparsity', [1.5, -.1, 90, float('nan')])
def test_a_sparsity_outside_of_0_and_1_is_an_error(make, sparsity):
  name = make.__name__
  with pytest.raises(
      ValueError,
      match=rf'(?s)fraction pruned.*\[0, 1\].*got {sparsity}.*{name}\(0.9\)'):
    make(sparsity)


@pytest.mark.parametrize('sparsity', [0., 1.])
@pytest.mark.parametrize('shapes', [[(6, 10)], [(4, 4), (7,), (3, 2, 5)]])
def test_nothing_and_everything_may_be_pruned(make, sparsity, shapes):
  want = [0 if sparsity else math.prod(shape) for shape in shapes]
  assert shares(make(sparsity), shapes) == want


@pytest.mark.parametrize('sparsity', [.1, .5, .9, .95])
def test_one_layer_gets_all_of_it(make, sparsity):
  assert shares(make(sparsity), [(6, 11)]) == [round((1 - sparsity) * 66)]


def test_no_layers_are_no_trouble(make):
  assert make(.5)({}, {}, 1.) == {}
  assert make(.5)({'a': None}, {'a': None}, 1.) == {'a': None}


def test_none_is_dense_and_keeps_the_structure(make):
  scores = {'a': [jnp.ones((4, 5)), None], 'b': None, 'c': jnp.ones(10)}
  specs = {'a': [unstructured(), None], 'b': None, 'c': unstructured()}
  got = make(.5)(scores, specs, 1.)
  assert got['a'][1] is None and got['b'] is None
  assert sum(counts_of(got)) == 15


def test_a_pattern_with_a_sparsity_of_its_own_keeps_it(make):
  shapes = [(8, 6), (10, 10), (4, 8)]
  specs = [nm(1, 4), unstructured(), block((2, 2), sparsity=.75)]
  got = shares(make(.3), shapes, specs)
  assert got == [1, 70, 2]
  assert shares(make(.3), shapes, specs, .5) == [2, 85, 5]


def test_all_patterns_may_have_their_own(make):
  assert shares(make(.3), [(8, 6), (4, 4)], [
      nm(1, 4), channel(sparsity=.5)]) == [1, 2]


def test_empty_weights_are_no_trouble(make):
  assert shares(make(.5), [(0, 3), (4, 5)]) == [0, 10]


@pytest.mark.parametrize('sparsity', [0., .4, 1.])
def test_scalar_weights_are_no_trouble(make, sparsity):
  one, rest = shares(make(sparsity), [(), (4, 5)])
  assert 0 <= one <= 1 and 0 <= rest <= 20
  if make is not uniform:
    assert one + rest == round((1 - sparsity) * 21)


def test_progress_counts_down_to_the_end(make):
  shapes = [(6, 7), (5,), (2, 3, 4)]
  layers = shares_under_way(make(.7), shapes)
  totals = [sum(layer) for layer in layers]
  assert totals[0] == 71 and layers[0] == [42, 5, 24]
  for fewer, more in zip(layers[1:], layers):
    assert all(a <= b for a, b in zip(fewer, more))
  if make is global_threshold:
    assert totals == [on_the_way(71, round(.3 * 71), p) for p in _PROGRESS]
  else:
    for p, layer in zip(_PROGRESS, layers):
      assert layer == [on_the_way(math.prod(shape), k, p)
                       for shape, k in zip(shapes, layers[-1])]


def test_progress_may_be_traced(make):
  shapes = [(6, 7), (5,)]
  scores = [scores_of('normal', shape) for shape in shapes]
  run = jax.jit(lambda p: make(.7)(scores, [unstructured()] * 2, p))
  for p in (0., .5):
    assert counts_of(run(jnp.float32(p))) == counts_of(
        make(.7)(scores, [unstructured()] * 2, p))


def test_counts_are_plain_sparsities_to_select(make):
  scores = {'a': scores_of('normal', (6, 7)), 'b': scores_of('heavy', (5,))}
  specs = {'a': unstructured(), 'b': unstructured()}
  got = make(.5)(scores, specs, 1.)
  for name in scores:
    mask = selection.select(scores[name], specs[name], got[name])
    assert int(mask.sum()) == integer(got[name].count)


def test_bounds_are_kept_at_the_end(make):
  shapes = [(10, 10), (10, 10), (20, 5)]
  specs = [unstructured(min_sparsity=.9), unstructured(max_sparsity=.2),
           unstructured()]
  got = shares(make(.5), shapes, specs)
  assert got[0] <= 10 and got[1] >= 80
  if make is not uniform:  # Which gives the third layer its own half.
    assert sum(got) == 150


@pytest.mark.parametrize('sparsity, bound, want', [
    (.9, {'max_sparsity': .5}, [15, 5, 10]),
    (.1, {'min_sparsity': .5}, [15, 5, 10])])
def test_bounds_beat_a_total_that_they_do_not_allow(
    make, sparsity, bound, want):
  shapes, specs = [(5, 6), (10,), (4, 5)], [unstructured(**bound)] * 3
  assert shares(make(sparsity), shapes, specs) == want
  before = [30, 10, 20]
  for p, got in zip(_PROGRESS, shares_under_way(make(sparsity), shapes, specs)):
    # Each layer, or all together, to the nearest unit.
    assert abs(sum(got) - on_the_way(60, 30, p)) <= 3
    assert all(a <= b for a, b in zip(got, before)), p
    assert all(a >= b for a, b in zip(got, want)), p
    before = got


def test_dense_by_its_bound_stays_dense_under_way(make):
  for layers in shares_under_way(make(.5), [(6, 5), (6, 5)], [
      unstructured(), unstructured(max_sparsity=0.)]):
    assert layers[1] == 30


def test_trees_beyond_32_bits_have_exact_totals(make):
  shapes, specs = [(48, 2**14, 2**14), (2**15 + 1, 4097)], [unstructured()] * 2
  size = sum(math.prod(shape) for shape in shapes)
  for progress in (1., .3):
    def counts(progress=progress):  # The scores are never made.
      scores = [jnp.zeros(shape) for shape in shapes]
      return [(k.count.hi, k.count.lo)
              for k in make(.9)(scores, specs, progress)]
    if make is global_threshold:
      assert len(jax.eval_shape(counts)) == 2
      continue
    total = sum(int(hi) * 2**16 + int(lo) for hi, lo in jax.jit(counts)())
    assert abs(total - on_the_way(size, round(.1 * size), progress)) <= 1
    if make is not uniform and progress == 1.:
      assert total == round((1 - .9) * size)


# Uniform.


def test_uniform_prunes_every_layer_alike():
  shapes = [(6, 10), (7,), (3, 4, 5), (1,)]
  for s in (.1, .25, .5, 1 / 3, .9, .95):
    assert shares(uniform(s), shapes) == [
        round((1 - s) * math.prod(shape)) for shape in shapes]


def test_uniform_counts_the_units_of_a_group():
  shapes = [(8, 6), (8, 6), (3, 8, 6), (12, 6)]
  specs = [block((2, 2)), channel(-1), channel(-2), _FAN_IN]
  assert shares(uniform(.5), shapes, specs) == [6, 3, 4, 6]
  assert shares(uniform(.75), shapes, specs) == [3, 2, 2, 3]


def test_uniform_keeps_to_bounds():
  shapes, specs = [(10, 10)] * 3, [
      unstructured(min_sparsity=.9), unstructured(max_sparsity=.2),
      unstructured(min_sparsity=.1, max_sparsity=.9)]
  assert shares(uniform(.5), shapes, specs) == [10, 80, 50]


def test_uniform_without_a_sparsity_names_the_layer_that_needs_one():
  scores = {'mlp': {'kernel': jnp.ones((4, 4))}, 'head': jnp.ones((4, 4))}
  specs = {'mlp': {'kernel': unstructured()}, 'head': nm(2, 4)}
  with pytest.raises(
      ValueError, match=r'(?s)mlp/kernel.*no sparsity.*uniform\(0.9\)'):
    uniform()(scores, specs, 1.)
  specs['mlp']['kernel'] = unstructured(sparsity=.75)
  assert counts_of(uniform()(scores, specs, 1.)) == [2, 4]


# Erdos-Renyi.


def ideal(shapes, raw, total, bounds):
  """Real-valued kept weights: one epsilon, each layer clipped to its bounds."""
  def kept(epsilon):
    return [min(max(epsilon * raw(shape) * math.prod(shape), lo), hi)
            for shape, (lo, hi) in zip(shapes, bounds)]
  low, high = 0., 1e9
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (middle, high) if sum(kept(middle)) < total else (low, middle)
  return kept(high)


_RAW = {
    'erk': (erk, lambda shape: sum(shape) / math.prod(shape)),
    'er': (er, lambda shape: sum(shape[-2:]) / math.prod(shape[-2:])),
    'half power': (functools.partial(erk, power=.5),
                   lambda shape: (sum(shape) / math.prod(shape))**.5),
    'flat': (functools.partial(erk, power=0.), lambda shape: 1.)}


@pytest.mark.parametrize('name', _RAW)
def test_erdos_renyi_has_one_epsilon_and_an_exact_total(name):
  make, raw = _RAW[name]
  rng = np.random.default_rng(0)
  for _ in range(25):
    shapes = [tuple(int(n) for n in rng.integers(1, 20, rng.integers(1, 5)))
              for _ in range(rng.integers(1, 6))]
    s = float(rng.choice([.05, .3, .5, .8, .9, .99, rng.random()]))
    ends = [sorted(rng.random(2).round(2).tolist()) if rng.random() < .3
            else (0., 1.) for _ in shapes]
    specs = [unstructured(min_sparsity=a, max_sparsity=b) for a, b in ends]
    sizes = [math.prod(shape) for shape in shapes]
    bounds = [(round((1 - b) * n), round((1 - a) * n))
              for n, (a, b) in zip(sizes, ends)]
    total = min(max(round((1 - s) * sum(sizes)), sum(lo for lo, _ in bounds)),
                sum(hi for _, hi in bounds))
    got = shares(make(s), shapes, specs)
    assert sum(got) == total, (shapes, s, ends)
    for k, (lo, hi), want in zip(got, bounds, ideal(
        shapes, raw, total, bounds)):
      assert lo <= k <= hi
      assert abs(k - want) <= 1 + 1e-6, (shapes, s, ends, got)


def test_erk_by_hand():
  # epsilon = 58 / (8 + 20) makes the small one denser than 1: it is held.
  assert shares(erk(.5), [(4, 4), (10, 10)]) == [16, 42]
  # epsilon = 29 / 28.
  assert shares(erk(.75), [(4, 4), (10, 10)]) == [8, 21]


def test_er_leaves_kernel_sizes_out():
  shapes = [(3, 3, 10, 10), (30, 30)]
  assert shares(er(.9), shapes) == [135, 45]
  assert shares(erk(.9), shapes) == [54, 126]


def test_erk_of_power_0_is_one_density():
  assert shares(erk(.5, power=0.), [(10, 10), (4, 4), (50,)]) == [50, 8, 25]


def test_erk_holds_several_layers_in_turn():
  # First (1, 1), then with what it leaves (4, 4) would be denser than 1.
  shapes = [(1, 1), (4, 4), (30, 30), (40, 40)]
  for s in (.1, .3, .5, .7):
    got = shares(erk(s), shapes)
    assert sum(got) == round((1 - s) * 2517)
    assert got[0] == 1 and got[1] == 16
    assert all(k <= math.prod(shape) for k, shape in zip(got, shapes))


@pytest.mark.parametrize('sparsity', [.25, .4, .5, .55, .9])
def test_erk_is_as_near_as_whole_blocks_allow(sparsity):
  got, = shares(erk(sparsity), [(10, 10)], [block((2, 2))])
  budget = round((1 - sparsity) * 100)
  assert abs(4 * got - budget) <= 2
  shapes, specs = [(8, 8), (16, 16), (8, 24)], [block((4, 4))] * 3
  got = shares(erk(sparsity), shapes, specs)
  assert abs(16 * sum(got) - round((1 - sparsity) * 512)) <= 8


@pytest.mark.parametrize('sparsity', [.3, .5, .77, .9])
def test_erk_fills_up_with_single_weights_beside_blocks(sparsity):
  shapes, specs = [(8, 8), (12, 10), (6, 6)], [
      block((4, 4)), unstructured(), _FAN_IN]
  blocks, single, column = shares(erk(sparsity), shapes, specs)
  assert 16 * blocks + single + 6 * column == round((1 - sparsity) * 220)


# One threshold.


def one_sort(units, k, bounds=None):
  """Kept masks: k of all in one stable order, after what bounds demand."""
  units = [np.asarray(x).astype(np.float64) for x in units]
  flat = np.concatenate([x.ravel() for x in units])
  layer = np.repeat(np.arange(len(units)), [x.size for x in units])
  order = np.argsort(-flat, kind='stable')
  bounds = bounds or [(0, x.size) for x in units]
  kept, chosen = [0] * len(units), np.zeros(flat.size, bool)
  for i in order:  # The least each layer keeps.
    if kept[layer[i]] < bounds[layer[i]][0]:
      chosen[i], kept[layer[i]] = True, kept[layer[i]] + 1
  for i in order:  # Then by score alone.
    if (chosen.sum() < k and not chosen[i]
        and kept[layer[i]] < bounds[layer[i]][1]):
      chosen[i], kept[layer[i]] = True, kept[layer[i]] + 1
  ends = np.cumsum([x.size for x in units])[:-1]
  return [c.reshape(x.shape) for c, x in zip(np.split(chosen, ends), units)]


def masks_of(sparsity, specs):
  """A jitted function from scores and progress to masks and counts."""
  distribution = global_threshold(sparsity)

  @jax.jit
  def run(scores, progress):
    kept = distribution(scores, specs, progress)
    masks = trees.map_with_path(
        lambda path, x, spec, k: selection.select(x, spec, k),
        scores, specs, kept)
    return masks, jax.tree.map(lambda x, k: k.count, scores, kept)
  return run


_MIXED = {'a': unstructured(), 'b': unstructured(), 'c': block((2, 2)),
          'd': None, 'e': nm(2, 4), 'f': channel(-1)}


def mixed_scores(kind):
  return {
      'a': scores_of(kind, (4, 6), seed=1),
      'b': scores_of(kind, (2, 3, 2), 'bfloat16', seed=2),
      'c': scores_of(kind, (4, 6), seed=3), 'd': None,
      'e': scores_of(kind, (8, 2), seed=4),
      'f': scores_of(kind, (1, 5), 'bfloat16', seed=5)}


@functools.cache
def mixed(sparsity):
  return masks_of(sparsity, _MIXED)


def check_mixed(sparsity, kind, progress):
  scores = mixed_scores(kind)
  masks, counts = mixed(sparsity)(scores, jnp.float32(progress))
  with np.errstate(invalid='ignore'):
    c = np.asarray(scores['c']).reshape(2, 2, 3, 2).astype(
        np.float32).sum((1, 3))
  units = [scores['a'], scores['b'], c, scores['f']]
  k = on_the_way(47, round((1 - sparsity) * 47), progress)
  want = one_sort(units, k)
  got = [masks['a'], masks['b'], masks['c'][::2, ::2], masks['f']]
  for g, w in zip(got, want):
    np.testing.assert_array_equal(np.asarray(g), w, err_msg=kind)
  assert sum(integer(counts[name]) for name in 'abcf') == k
  np.testing.assert_array_equal(
      masks['c'], np.repeat(np.repeat(masks['c'][::2, ::2], 2, 0), 2, 1))
  assert masks['d'] is None
  # The one with a sparsity of its own is on its own way.
  np.testing.assert_array_equal(
      np.asarray(masks['e']).reshape(2, 4, 2).sum(1),
      on_the_way(4, 2, progress))


@pytest.mark.parametrize('kind', _KINDS)
@pytest.mark.parametrize('sparsity', [.3, .85])
def test_global_threshold_is_one_stable_sort(sparsity, kind):
  check_mixed(sparsity, kind, 1.)


@pytest.mark.parametrize('kind', _KINDS)
@pytest.mark.parametrize('progress', [0., .1, .37, .5, .9])
def test_global_threshold_is_one_stable_sort_under_way(kind, progress):
  check_mixed(.85, kind, progress)


def test_global_threshold_may_empty_a_layer_under_way():
  scores = [jnp.arange(1., 11.), jnp.arange(1., 11.) * 1e-3]
  got = global_threshold(.5)(scores, [unstructured()] * 2, .6)
  assert counts_of(got) == [10, 4]


@functools.cache
def bounded(sparsity):
  return masks_of(sparsity, [
      unstructured(max_sparsity=.5), unstructured(),
      unstructured(min_sparsity=.4, max_sparsity=.8)])


@pytest.mark.parametrize('kind', _KINDS)
def test_global_threshold_shares_what_a_bound_holds_back(kind):
  shapes, bounds = [(4, 5), (6, 5), (2, 5)], [(10, 20), (0, 30), (2, 6)]
  for sparsity in (.3, .75):
    for lift in (0., 100., -100.):  # One layer above or below all others.
      scores = [scores_of(kind, s, seed=i) for i, s in enumerate(shapes)]
      scores[0] = scores[0] + lift
      masks, counts = bounded(sparsity)(scores, jnp.float32(1.))
      k = round((1 - sparsity) * 60)
      want = one_sort(scores, k, bounds)
      for mask, w in zip(masks, want):
        np.testing.assert_array_equal(np.asarray(mask), w, err_msg=kind)
      assert [integer(c) for c in counts] == [w.sum() for w in want]
      assert sum(w.sum() for w in want) == k


def test_ties_go_to_the_earlier_layer_then_to_the_lower_index():
  scores = {'b': jnp.ones(4), 'a': [jnp.ones(3), jnp.ones((2, 2))]}
  specs = jax.tree.map(lambda _: unstructured(), scores)
  for k in (2, 5, 8):
    got = counts_of(global_threshold(1 - k / 11)(scores, specs, 1.))
    assert got == [min(k, 3), min(max(k - 3, 0), 4), max(k - 7, 0)]


@pytest.mark.parametrize('kind', ['heavy', 'integers', 'mostly zero', 'nan'])
def test_global_threshold_of_many_is_one_stable_sort(kind):
  scores = [scores_of(kind, (300, 150), seed=1),
            scores_of(kind, (26_000,), 'bfloat16', seed=2)]
  masks, counts = _of_many(scores, jnp.float32(1.))
  flat = np.concatenate([
      np.asarray(x).astype(np.float64).ravel() for x in scores])
  want = np.zeros(flat.size, bool)
  want[np.argsort(-flat, kind='stable')[:round(.4 * 71_000)]] = True
  got = np.concatenate([np.asarray(m).ravel() for m in masks])
  np.testing.assert_array_equal(got, want)
  assert sum(integer(c) for c in counts) == 28_400


_of_many = masks_of(.6, [unstructured()] * 2)


def test_global_threshold_of_float64_beside_float32():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    scores = [
        jnp.asarray(rng.standard_normal(9)), scores_of('normal', (4, 5)),
        scores_of('normal', (6,), 'bfloat16')]
    assert scores[0].dtype == jnp.float64
    masks, _ = masks_of(.5, [unstructured()] * 3)(scores, jnp.float32(1.))
    for mask, want in zip(masks, one_sort(scores, round(.5 * 35))):
      np.testing.assert_array_equal(np.asarray(mask), want)


def test_global_threshold_needs_units_that_compete_across_layers():
  scores = {'mlp': {'kernel': jnp.ones((4, 4))}}
  with pytest.raises(
      ValueError, match=r'(?s)mlp/kernel.*fan_in.*compete in groups.*uniform'):
    global_threshold(.5)(scores, {'mlp': {'kernel': _FAN_IN}}, 1.)


def test_a_distribution_of_ones_own_may_return_numbers():
  def half(scores, specs, progress):
    return jax.tree.map(lambda x: .5 * progress, scores)
  scores = [scores_of('normal', (6, 10))]
  sparsities = half(scores, [unstructured()], 1.)
  assert selection.select(scores[0], unstructured(), sparsities[0]).sum() == 30
  assert callable(distributions.Distribution)
