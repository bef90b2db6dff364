"""Weights and inputs for one-shot pruning, and its algorithms in numpy."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import jaxsparse

_RNG = np.random.default_rng(0)


def array(*shape):
  """Normal numbers, those that come next."""
  return _RNG.normal(size=shape).astype(np.float32)


def mlp(p, x):
  """Two hidden layers, one with a bias."""
  x = jax.nn.relu(x @ p['up'])
  return jnp.tanh(x @ p['mid'] + p['bias'][None]) @ p['down']


MLP = {'up': array(8, 16), 'mid': array(16, 16), 'bias': array(16),
       'down': array(16, 4)}
X = [array(40, 8), array(24, 8)]
HALF = jaxsparse.unstructured(0.5)


def assert_trees(a, b, exactly=False):
  """Trees of weights, near, and of masks, which are the same."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if exactly or x.dtype == bool:
      np.testing.assert_array_equal(x, y)
    else:
      np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)


def three_turns(p, x):
  """A loop that reads `w` in every turn, and `v` in all but the first."""
  def turn(carry):
    i, x = carry
    x = jnp.tanh(x @ p['w'])
    return i + 1, lax.cond(i > 0, lambda x: x @ p['v'], lambda x: x, x)
  return lax.while_loop(lambda carry: carry[0] < 3, turn, (0, x))[1]


def problem(seed=0, inputs=48, out=20, tokens=256, dead=(), mixed=False):
  """Weights `[in, out]` and `h` of correlated inputs, whose norms grow.

  With `mixed` these are in another order.
  """
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(inputs, inputs // 4)) @ rng.normal(
      size=(inputs // 4, inputs)) / inputs + np.eye(inputs) / 2
  x = rng.normal(size=(tokens, inputs)) @ mix
  norms = np.linspace(.2, 2, inputs)
  x *= rng.permutation(norms) if mixed else norms
  x[:, [*dead]] = 0
  w = rng.normal(size=(inputs, out))
  return jnp.asarray(w, jnp.float32), jnp.asarray(x.T @ x, jnp.float32)


def exact(*arrays):
  return [np.asarray(x, np.float64) for x in arrays]


def highest(scores, count):
  """The mask of the highest of a flat array; ties go to the lower index."""
  mask = np.zeros(scores.size, bool)
  mask[np.argsort(-scores.reshape(-1), kind='stable')[:count]] = True
  return mask.reshape(scores.shape)


def highest_of_groups(scores, count, group):
  """The same for groups of inputs within each output."""
  mask = np.zeros(scores.shape, bool)
  for i in range(0, len(scores), group):
    for j in range(scores.shape[1]):
      mask[i:i + group, j] = highest(scores[i:i + group, j], count)
  return mask


def reconstruction_error(w, v, h):
  w, v, h = exact(w, v, h)
  return np.trace((w - v).T @ h @ (w - v)) / np.trace(w.T @ h @ w)
