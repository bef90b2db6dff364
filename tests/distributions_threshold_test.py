"""One threshold for all layers, against one stable sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse._utils import trees
from jaxsparse.distributions import global_threshold
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

_KINDS = ('normal', 'integers', 'constant', 'signed zeros', 'nan', 'all nan',
          'infinite', 'heavy', 'mostly zero', 'negative')


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
      ValueError, match=r'(?s)mlp/kernel.*balanced=True.*has groups.*uniform'):
    global_threshold(.5)(scores, {'mlp': {'kernel': FAN_IN}}, 1.)


@pytest.mark.parametrize('shape', [(), (1,), (8, 8)])
@pytest.mark.parametrize('sparsity', [0., 0.5, 1.])
def test_a_search_outside_of_jit_passes_debug_nans(shape, sparsity):
  """Candidates at its ends are the bits of NaN."""
  params = {'w': jnp.ones(shape)}
  rule = jaxsparse.prune({'w': unstructured()},
                         distribution=global_threshold(sparsity))
  with jax.debug_nans(True):
    masks = rule.init(params).masks
  assert masks['w'].sum() == selection.final_count(
      params['w'].size, sparsity)
