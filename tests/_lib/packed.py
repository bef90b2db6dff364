"""2:4 weights, their bits, and products in numpy, for the tests of packing."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.packed import layout24

# One compilation for a shape rather than one for every operation.
unpack = jax.jit(layout24.unpack)
with_layout = jax.jit(layout24.with_layout, static_argnums=1)

# Errors relative to the largest entry: operands are exact, results rounded.
_TOLERANCES = {'float32': 2e-6, 'bfloat16': 8e-3, 'float16': 1e-3, 'int8': 0,
               'int32': 0}


def raw(x):
  """The bits of an array; NaN, of which there are many, is always the same."""
  x = np.asarray(x)
  bits = x.view(f'uint{8 * x.dtype.itemsize}')
  with np.errstate(invalid='ignore'):
    return np.where(x != x, -1, np.int64(bits))


def bits(x):
  """The same, and -0.0 has the bits of 0.0."""
  with np.errstate(invalid='ignore'):
    return np.where(np.asarray(x) == 0, 0, raw(x))


def assert_same(a, b):
  """Two packed weights are the same, bit for bit, static fields included."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(bits(x), bits(y))


def normal(*shape, seed=0, dtype=np.float32):
  """Normal numbers of any dtype."""
  x = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return (40 * x).astype(dtype) if dtype == 'int8' else x.astype(dtype)


def prune(w, axis=-2, seed=0):
  """Of every four along an axis 0, 1 or 2 stay, wherever these are."""
  w = np.moveaxis(w, axis, -1)
  groups = (*w.shape[:-1], -(-w.shape[-1] // 4))
  rng = np.random.default_rng(seed)
  rank = rng.permuted(np.broadcast_to(np.arange(4), (*groups, 4)), axis=-1)
  kept = rank < rng.integers(0, 3, groups)[..., None]
  kept = kept.reshape(*groups[:-1], 4 * groups[-1])[..., :w.shape[-1]]
  return np.moveaxis(np.where(kept, w, np.zeros((), w.dtype)), -1, axis)


def pruned_along(axis, *shape, dtype=np.float32):
  """Normal numbers, pruned along an axis or several joined ones."""
  joined = axis if isinstance(axis, tuple) else (axis,)
  first = joined[0] % len(shape)
  k = math.prod(shape[a] for a in joined)
  return prune(normal(*shape[:first], k, *shape[first + len(joined):],
                      dtype=dtype), first).reshape(shape)


def two_way(*shape, seed=0, dtype=np.float32):
  """2:4 along both of the last axes: 4 x 4 tiles with their rows permuted."""
  *leading, k, n = shape
  rows, columns = -(-k // 4), -(-n // 4)
  rng = np.random.default_rng(seed)
  order = rng.permuted(np.broadcast_to(
      np.arange(4), (*leading, rows, columns, 4)), axis=-1)
  kept = (order[..., None] + np.arange(4)) % 4 < 2
  kept = kept.swapaxes(-3, -2).reshape(*leading, 4 * rows, 4 * columns)
  return np.where(kept[..., :k, :n], normal(*shape, seed=seed, dtype=dtype),
                  np.zeros((), dtype))


def stacked(*shape, dtype=np.float32):
  """Several weights of `two_way` in one, packed both ways."""
  return layout24.pack(np.stack([two_way(*shape[1:], seed=i, dtype=dtype)
                                 for i in range(shape[0])]), transposed=True)


def with_values(w, values):
  """The same weight with other values."""
  return dataclasses.replace(w, values=values)


def ones(w):
  """Where a weight's kept entries are, zeros among them."""
  return np.asarray(unpack(
      jax.tree.map(lambda x: jnp.ones_like(x)
                   if jnp.issubdtype(x.dtype, jnp.floating) else x, w))) == 1


def wide(*arrays):
  """Arrays in float64."""
  return [np.float64(x) for x in arrays]


def assert_near(y, expected, tolerance=None):
  """`y` is what numpy has got, rounded to the dtype of `y`."""
  if tolerance is None:
    tolerance = _TOLERANCES[y.dtype.name]
  expected = np.asarray(expected, np.float64)
  assert y.shape == expected.shape
  np.testing.assert_allclose(
      np.float64(y), expected, rtol=0,
      atol=tolerance * np.abs(expected).max(initial=1e-30))


def gradients(x, w, dy):
  """The oracle: with respect to x and to the kept entries of w."""
  x, kept, w, dy = (*wide(x), ones(w), *wide(unpack(w), dy))
  rows, outs = math.prod(x.shape[:-1]), dy.shape[-1]
  return (dy @ w.T, np.where(
      kept, x.reshape(rows, -1).T @ dy.reshape(rows, outs), 0))


def exported(f, *args, platforms):
  """A program for other platforms."""
  return jax.export.export(jax.jit(f), platforms=platforms)(*args)


def on_gpu(kind='NVIDIA H200', num_cores=132):
  """As if there were such a GPU."""
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh(
      (), (), abstract_device=jax.sharding.AbstractDevice(
          device_kind=kind, platform='cuda', num_cores=num_cores)))
