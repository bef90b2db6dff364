"""2:4 samples, against an enumeration of all draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import flows

# Even, uneven, tiny beside large, a zero, two zeros, negatives.
_GROUPS = np.array([
    [1., 1., 1., 1.], [4., 3., 2., 1.], [1e-4, 2., -1e-3, .5],
    [0., -3., 1., 1.], [0., 2., 0., -1.], [-5., -1., -.1, 2.]])


def _draws(group):
  """Every pair that may be drawn of a group, with its probability."""
  a = np.abs(group) / np.abs(group).max() + np.finfo(np.float32).eps
  pairs = {}
  for i, j in itertools.permutations(range(4), 2):
    pair = tuple(sorted((i, j)))
    pairs[pair] = pairs.get(pair, 0.) + (
        a[i] / a.sum() * a[j] / (a.sum() - a[i]))
  return pairs


def _estimates(group):
  """The sample of every pair."""
  pairs = _draws(group)
  p = [sum(q for pair, q in pairs.items() if i in pair) for i in range(4)]
  return {pair: np.array([group[i] / p[i] if i in pair else 0.
                          for i in range(4)]) for pair in pairs}


def _samples(count):
  """`[count, groups, 4]`, one for each key."""
  keys = jax.random.split(jax.random.key(3), count)
  g = jnp.asarray(_GROUPS, jnp.float32).T
  return np.array(jax.jit(jax.vmap(lambda key: flows.mvue24(g, key)))(
      keys)).transpose(0, 2, 1)


def test_every_sample_is_one_of_the_draws_and_these_are_unbiased():
  for group, samples in zip(_GROUPS, _samples(200).transpose(1, 0, 2)):
    pairs, estimates = _draws(group), _estimates(group)
    assert sum(pairs.values()) == pytest.approx(1.)
    np.testing.assert_allclose(
        sum(q * estimates[pair] for pair, q in pairs.items()), group,
        atol=1e-12)
    for sample in samples:
      assert any(np.allclose(sample, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())
                 for e in estimates.values())


def test_pairs_are_drawn_as_often_as_they_should_be():
  count = 4_000
  for group, samples in zip(_GROUPS, _samples(count).transpose(1, 0, 2)):
    for pair, q in _draws(group).items():
      if not group[list(pair)].all():
        continue  # Which of the zeros was drawn cannot be seen.
      seen = (samples[:, pair] != 0).all(1).mean()
      # Five standard deviations of a mean of `count` draws.
      assert abs(seen - q) <= 5 * np.sqrt(q * (1 - q) / count) + 1e-12


def test_the_mean_over_keys_is_the_array():
  count = 4_000
  for group, samples in zip(_GROUPS, _samples(count).transpose(1, 0, 2)):
    pairs, estimates = _draws(group), _estimates(group)
    variance = sum(q * (estimates[pair] - group)**2
                   for pair, q in pairs.items())
    assert (np.abs(samples.mean(0) - group) <= (
        5 * np.sqrt(variance / count) + 1e-5 * np.abs(group))).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('axis', [0, 1, -1])
def test_at_most_two_of_four_are_left_along_the_axis(dtype, axis):
  g = jax.random.normal(jax.random.key(0), (8, 4, 12), dtype)
  sample = flows.mvue24(g, jax.random.key(1), axis=axis)
  assert sample.dtype == dtype and sample.shape == g.shape
  groups = np.moveaxis(np.asarray(sample, np.float32), axis, -1)
  np.testing.assert_array_equal(
      (groups.reshape(*groups.shape[:-1], -1, 4) != 0).sum(-1), 2)


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_the_scale_of_gradients_does_not_matter(scale):
  g = jax.random.normal(jax.random.key(0), (8, 3))
  key = jax.random.key(1)
  np.testing.assert_allclose(
      flows.mvue24(g * scale, key), flows.mvue24(g, key) * scale, rtol=1e-5)


def test_zeros_stay_zero_and_a_nan_stays_in_its_group():
  g = jnp.zeros((8, 1)).at[5].set(jnp.nan)
  sample = np.array(flows.mvue24(g, jax.random.key(0)))[:, 0]
  np.testing.assert_array_equal(sample[:4], 0.)
  assert np.isnan(sample[4:]).sum() == 2
  assert flows.mvue24(jnp.zeros((0, 2)), jax.random.key(0)).shape == (0, 2)


def test_one_weight_alone_is_always_drawn_and_exact():
  g = jnp.zeros((4, 64)).at[2].set(3.)
  np.testing.assert_allclose(
      flows.mvue24(g, jax.random.key(0)), g, rtol=1e-5)


def test_a_product_has_exact_inputs_gradients_and_sampled_ones_of_weights():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (2, 8, 6))
  w, dy = (jax.random.normal(k, s) for k, s in zip(
      keys[1:], ((6, 3), (2, 8, 3))))
  y, pull = jax.vjp(
      lambda x, w: flows.sampled_matmul(x, w, key=keys[3]), x, w)
  np.testing.assert_allclose(y, x @ w, rtol=1e-6)
  dx, dw = pull(dy)
  np.testing.assert_allclose(dx, dy @ w.T, rtol=1e-5)
  sampled = flows.mvue24(dy.reshape(16, 3), keys[3])
  np.testing.assert_allclose(dw, x.reshape(16, 6).T @ sampled, rtol=1e-5)


@pytest.mark.parametrize('shape, axis', [((6, 2), -2), ((4,), -2), ((4, 2), 2)])
def test_groups_that_do_not_tile_are_a_taught_error(shape, axis):
  with pytest.raises(ValueError, match='axis.*multiple of 4'):
    flows.mvue24(jnp.ones(shape), jax.random.key(0), axis=axis)


@pytest.mark.parametrize('x, w', [
    ((6, 2), (2, 3)), ((4, 2), (3, 3)), ((4,), (4, 3)), ((4, 2), (2,))])
def test_shapes_that_do_not_fit_are_a_taught_error(x, w):
  with pytest.raises(ValueError, match='Fill x up'):
    flows.sampled_matmul(jnp.ones(x), jnp.ones(w), key=jax.random.key(0))


@pytest.mark.parametrize('key', [0, None, jnp.ones(2)])
def test_what_is_no_key_is_a_taught_error(key):
  with pytest.raises(ValueError, match=r'key must be.*jax.random.key\(0\)'):
    flows.mvue24(jnp.ones((4, 2)), key)
