"""SparseGPT is the published algorithm in numpy, with exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.calibration import reconstruction_error
from jaxsparse.calibration import sparsegpt
from tests._lib import calibration as lib
from tests._lib.near import same


def published(w, h, block, choose, damping=.01):
  """The released loops; `choose(i, scores)` gives a mask of scores from i on.

  It returns `None` where nothing is chosen at this input.
  """
  w, h = lib.exact(w, h)
  n = len(w)
  h = h + damping * np.mean(np.diagonal(h)) * np.eye(n)
  u = np.linalg.cholesky(np.linalg.inv(h)).T
  mask = np.zeros(w.shape, bool)
  for i in range(0, n, block):
    for j in range(i, min(i + block, n)):
      chosen = choose(j, w[j:]**2 / np.diagonal(u)[j:, None]**2)
      if chosen is not None:
        mask[j:j + len(chosen)] = chosen
      e = np.where(mask[j], 0, w[j]) / u[j, j]
      w[j:] -= u[j, j:, None] * e
      w[j] = np.where(mask[j], w[j], 0)
  return w, mask


def check(found, expected):
  np.testing.assert_array_equal(found[1], expected[1])
  same(found[0], expected[0], 1e-4)


@pytest.mark.parametrize('compete', ['matrix', 'block'])
def test_one_block_is_the_published_algorithm(compete):
  w, h = lib.problem()
  found = sparsegpt(w, h, jaxsparse.unstructured(.6), block=48,
                    compete=compete)
  check(found, published(w, h, 48, lambda i, scores: None if i else (
      lib.highest(scores, round(.4 * w.size)))))


def test_blocks_with_equal_shares_are_the_published_algorithm():
  w, h = lib.problem()

  def choose(i, scores):  # A block of 20 inputs is made a multiple of 16.
    if i % 16 == 0:
      return lib.highest(scores[:16], 4 * scores.shape[1])
  check(sparsegpt(w, h, jaxsparse.unstructured(.75), block=20,
                  compete='block'), published(w, h, 16, choose))


@pytest.mark.parametrize('n, m, block', [(2, 4, 128), (2, 4, 7), (3, 6, 16)])
def test_groups_are_the_published_algorithm(n, m, block):
  w, h = lib.problem()
  check(sparsegpt(w, h, jaxsparse.nm(n, m), block=block),
        published(w, h, 48, lambda i, scores: None if i % m else (
            lib.highest_of_groups(scores[:m], n, m))))


def test_blocks_keep_what_scores_of_the_whole_matrix_say():
  w, h = lib.problem()
  u = np.linalg.cholesky(np.linalg.inv(
      h + .01 * np.mean(np.diagonal(h)) * np.eye(48))).T
  ahead = lib.highest(np.square(w / np.diagonal(u)[:, None]), w.size // 2)

  def choose(i, scores):
    if i % 16 == 0:
      return lib.highest(scores[:16], ahead[i:i + 16].sum())
  found = sparsegpt(w, h, jaxsparse.unstructured(.5), block=16)
  check(found, published(w, h, 16, choose))
  blocks = found[1].reshape(3, -1).sum(1)
  assert blocks[0] < blocks[1] < blocks[2]


@pytest.mark.parametrize('compete', ['matrix', 'block'])
@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.37), jaxsparse.nm(11, 40),
    jaxsparse.nm(3, 5), jaxsparse.nm(7, 20),
    jaxsparse.block((5, 1), balanced=True, sparsity=.5),
    jaxsparse.block((5, 1), sparsity=.5)], ids=str)
def test_every_group_keeps_exactly_its_count(pattern, compete):
  w, h = lib.problem(inputs=40, out=7)
  v, mask = sparsegpt(w, h, pattern, block=16, compete=compete)
  unit = pattern.unit.tile(w.shape)[0]
  rows, columns = pattern.group_tile(w.shape)
  np.testing.assert_array_equal(v != 0, mask)
  units = mask[::unit]
  np.testing.assert_array_equal(mask, units.repeat(unit, 0))
  groups = units.reshape(40 // unit // rows, rows, 7 // columns, columns)
  assert (groups.sum((1, 3))
          == round((1 - pattern.sparsity) * rows * columns)).all()


def test_dead_inputs_are_pruned_first_and_keep_what_they_have_to():
  dead = [0, 1, 2, 17]
  w, h = lib.problem(dead=dead)
  v, mask = sparsegpt(w, h, jaxsparse.unstructured(.5))
  assert not mask[jnp.array(dead)].any()
  v, mask = sparsegpt(w, h, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(mask[:4], np.array([1, 0, 0, 1])[:, None]
                                * np.ones((4, 20), bool))
  np.testing.assert_array_equal(v[0], w[0])
  v, mask = sparsegpt(w, jnp.zeros_like(h), jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(v, jnp.where(mask, w, 0))


def test_updates_lower_the_error_of_the_mask():
  for seed in range(3):
    w, h = lib.problem(seed)
    for pattern in (jaxsparse.unstructured(.7), jaxsparse.nm(2, 4)):
      v, mask = sparsegpt(w, h, pattern, block=16)
      assert (reconstruction_error(w, v, h)
              < reconstruction_error(w, jnp.where(mask, w, 0), h))


def test_shares_by_scores_beat_equal_ones_where_norms_grow():
  for seed in range(3):
    w, h = lib.problem(seed)
    matrix, block = (reconstruction_error(w, sparsegpt(
        w, h, jaxsparse.unstructured(.5), block=16, compete=compete)[0], h)
                     for compete in ('matrix', 'block'))
    assert matrix < block


def test_bfloat16_is_pruned_in_float32():
  w, h = lib.problem()
  w = w.astype(jnp.bfloat16)
  v, mask = sparsegpt(w, h, jaxsparse.nm(2, 4))
  wide, expected = sparsegpt(w.astype(jnp.float32), h, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(mask, expected)
  np.testing.assert_array_equal(v, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize('pattern', [
    jaxsparse.unstructured(.5), jaxsparse.nm(2, 4)], ids=str)
def test_layers_are_mapped(pattern):
  ws, hs = map(jnp.stack, zip(*map(lib.problem, range(2))))
  f = jax.jit(jax.vmap(lambda w, h: sparsegpt(w, h, pattern, block=16)))
  for v, mask, w, h in zip(*f(ws, hs), ws, hs):
    expected = sparsegpt(w, h, pattern, block=16)
    np.testing.assert_array_equal(mask, expected[1])
    same(v, expected[0])


def test_compete_is_one_of_two_words():
  with pytest.raises(ValueError, match="'matrix' or 'block', got 'row'"):
    sparsegpt(*lib.problem(), jaxsparse.unstructured(.5), compete='row')
