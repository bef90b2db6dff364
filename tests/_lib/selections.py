"""`select` with many scores, and a stable sort to hold against it."""

from fractions import Fraction
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks.selection import Kept
from jaxsparse.masks.selection import select
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import Tiling
from jaxsparse.patterns import unstructured

# Sums over a unit of these are exact in float32, whatever their order.
EXACT = ('integers', 'eighths', 'constant', 'zeros', 'signed zeros', 'nan',
         'infinite')
KINDS = EXACT + (
    'normal', 'all nan', 'heavy', 'mostly zero', 'negative', 'tiny', 'wide')


def scores_of(kind, shape, dtype='float32', seed=0):
  """Scores with a trap, as a jax array that numpy sorts the same way."""
  rng, n = np.random.default_rng(seed), math.prod(shape)
  info = jnp.finfo(dtype)
  x = {
      'integers': lambda: rng.integers(-3, 4, n),
      'eighths': lambda: rng.integers(-64, 64, n) / 8,
      'constant': lambda: np.full(n, rng.choice([1., -2.5])),
      'zeros': lambda: np.zeros(n),
      'signed zeros': lambda: rng.choice([0., -0., 1., -1.], n),
      'nan': lambda: rng.choice(
          [np.nan, -np.nan, np.inf, -np.inf, 2., 0., -0., -1.], n),
      'infinite': lambda: rng.choice([np.inf, -np.inf], n),
      'normal': lambda: rng.standard_normal(n),
      'all nan': lambda: np.full(n, np.nan),
      'heavy': lambda: np.clip(
          rng.standard_cauchy(n)**3, float(info.min), float(info.max)),
      'mostly zero': lambda: rng.standard_normal(n) * (rng.random(n) < .2),
      'negative': lambda: -rng.random(n),
      'tiny': lambda: rng.integers(-5, 6, n) * float(info.tiny),
      'wide': lambda: rng.choice([-1., 1.], n) * np.exp2(
          rng.integers(int(info.minexp), int(info.maxexp), n).astype(float)),
  }[kind]()
  return jax.device_put(np.asarray(x, np.float64).reshape(shape).astype(dtype))


def cut(x, tile):
  """[grid of tiles..., members of a tile in index order]."""
  split = [s for n, t in zip(x.shape, tile) for s in (n // t, t)]
  order = [*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)]
  x = x.reshape(split).transpose(order)
  return x.reshape(x.shape[:len(tile)] + (-1,))


def paste(x, tile):
  """The inverse of `cut`."""
  x = x.reshape(x.shape[:-1] + tuple(tile))
  n = len(tile)
  x = x.transpose([a for i in range(n) for a in (i, n + i)])
  return x.reshape([
      x.shape[i] * x.shape[i + 1] for i in range(0, 2 * n, 2)])


def oracle(x, k, *, unit=None, group=None, reduce='sum'):
  """Keeps k units of each group: a stable descending sort, NaN last.

  Without `unit` single weights, without `group` the whole weight.
  """
  x = np.asarray(x).astype(np.float64)
  unit = unit or (1,) * x.ndim
  with np.errstate(invalid='ignore'):  # inf - inf
    units = getattr(np, reduce)(cut(x, unit), -1)
  group = group or units.shape
  groups = cut(units, group)
  mask = np.zeros(groups.shape, bool)
  order = np.argsort(-groups, -1, kind='stable')
  np.put_along_axis(mask, order[..., :k], True, -1)
  mask = paste(mask, group)
  return paste(np.repeat(mask[..., None], math.prod(unit), -1), unit)


def keeping(n, sparsity):
  """round((1 - s) * n) in exact arithmetic, of a sparsity in float32."""
  return round((1 - Fraction(float(np.float32(sparsity)))) * n)


@functools.cache
def selector(pattern):
  """`select` of exactly k units, one compilation per shape."""
  return jax.jit(lambda x, k: select(
      x, pattern, Kept(counts.Count(k >> 16, k & jnp.uint32(0xFFFF)))))


@functools.cache
def traced(pattern):
  """`select` of a traced sparsity."""
  return jax.jit(lambda x, sparsity: select(x, pattern, sparsity))


def agree(got, want, *context):
  assert got.dtype == bool
  np.testing.assert_array_equal(np.asarray(got), want, err_msg=str(context))


def check(pattern, shape, ks, kinds=KINDS, dtype='float32', **tiles):
  for kind in kinds:
    x = scores_of(kind, shape, dtype)
    for k in ks:
      agree(selector(pattern)(x, jnp.uint32(k)),
            oracle(x, k, reduce=pattern.reduce, **tiles), pattern, kind, k)


FAN_IN = unstructured(balanced=True)
PER_LAYER = Pattern('per_layer', Tiling(rest=1), Tiling(((0, 1),)))
