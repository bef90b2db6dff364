"""All distributions: totals, bounds and progress; and the uniform one."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxsparse import distributions
from jaxsparse.distributions import er
from jaxsparse.distributions import erk
from jaxsparse.distributions import global_threshold
from jaxsparse.distributions import uniform
from jaxsparse.masks import selection
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import unstructured
from tests._lib.selections import FAN_IN
from tests._lib.selections import scores_of
from tests._lib.shares import counts_of
from tests._lib.shares import integer
from tests._lib.shares import on_the_way
from tests._lib.shares import PROGRESS
from tests._lib.shares import shares
from tests._lib.shares import shares_under_way

_ALL = {'uniform': uniform, 'erk': erk, 'er': er,
        'global_threshold': global_threshold}


@pytest.fixture(params=_ALL, name='make')
def _make(request):
  return _ALL[request.param]


def test_numbers_of_a_distribution_are_budgets_as_counts_are():
  specs = {'a': unstructured(), 'b': nm(2, 4)}
  make = lambda: {'a': jnp.ones((5, 2)), 'b': jnp.ones((4, 2))}
  for distribution in (lambda *_: {'a': .3, 'b': .5}, uniform(.3)):
    kept = distributions.budgets(distribution, make, specs, 1.)
    assert {k: integer(n.count) for k, n in kept.items()} == {'a': 7, 'b': 2}


@pytest.mark.parametrize('sparsity', [1.5, -.1, 90, float('nan')])
def test_a_sparsity_outside_of_0_and_1_is_an_error(make, sparsity):
  with pytest.raises(
      ValueError,
      match=rf'(?s)fraction pruned.*\[0, 1\].*got {sparsity}.*sparsity=0'):
    make(sparsity)


@pytest.mark.parametrize('sparsity', [0., 1.])
@pytest.mark.parametrize('shapes', [[(6, 10)], [(4, 4), (7,), (3, 2, 5)]])
def test_nothing_and_everything_may_be_pruned(make, sparsity, shapes):
  want = [0 if sparsity else math.prod(shape) for shape in shapes]
  assert shares(make(sparsity), shapes) == want


def test_a_sparsity_may_be_an_array_of_one_number(make):
  assert shares(make(jnp.float32(.5)), [(10,), (6,)]) == shares(
      make(.5), [(10,), (6,)])
  with pytest.raises(ValueError, match=r'sparsity must be.*got float32\[\] of '
                     'a traced function.*sparsity=0.9'):
    jax.jit(lambda s: shares(make(s), [(10,), (6,)]))(.5)


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
    assert totals == [on_the_way(71, round(.3 * 71), p) for p in PROGRESS]
  else:
    for p, layer in zip(PROGRESS, layers):
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
  for p, got in zip(PROGRESS, shares_under_way(make(sparsity), shapes, specs)):
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
  specs = [block((2, 2)), channel(-1), channel(-2), FAN_IN]
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
      ValueError, match=r'(?s)mlp/kernel.*needs a sparsity.*uniform\(0.9\)'):
    uniform()(scores, specs, 1.)
  specs['mlp']['kernel'] = unstructured(sparsity=.75)
  assert counts_of(uniform()(scores, specs, 1.)) == [2, 4]


def test_a_distribution_of_ones_own_may_return_numbers():
  def half(scores, specs, progress):
    return jax.tree.map(lambda x: .5 * progress, scores)
  scores = [scores_of('normal', (6, 10))]
  sparsities = half(scores, [unstructured()], 1.)
  assert selection.select(scores[0], unstructured(), sparsities[0]).sum() == 30
  assert callable(distributions.Distribution)
