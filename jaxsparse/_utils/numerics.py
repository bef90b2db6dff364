"""Dtypes of sums, sums of any leaves, random numbers, tables for compilers."""

import functools
import math
from typing import Any, Callable, Sequence, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar('T')


def at_least_float32(dtype: Any) -> Any:
  """The dtype of sums: float32, or what is as wide or wider.

  >>> at_least_float32(jnp.bfloat16) == jnp.float32
  True
  """
  return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def wide(x: jax.Array) -> jax.Array:
  """An array in float32, or wider if it is."""
  return x.astype(at_least_float32(x.dtype))


def squared(x: jax.Array) -> jax.Array:
  """The squares of magnitudes, which are real also of complex numbers.

  >>> print(squared(jnp.array([3j, 4.])))
  [ 9. 16.]
  """
  return jnp.square(wide(jnp.abs(x)))


def all_finite(tree: Any) -> jax.Array:
  """Whether no number in a tree of arrays is infinite or NaN."""
  return functools.reduce(jnp.logical_and, (
      jnp.isfinite(x).all() for x in jax.tree.leaves(tree)),
                          jnp.ones((), bool))


def if_finite(grads: Any, new: T, old: T) -> T:
  """The new sums, or the old ones if a gradient is not finite.

  Optimizers skip such a step (`optax.apply_if_finite`), and one NaN would stay
  in a sum forever.
  """
  good = all_finite(grads)
  return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)


@jax.jit  # Traced once for all arrays of one shape.
def uniform_like(x: jax.Array, words: jax.Array) -> jax.Array:
  """Random float32 numbers in [0, 1) in the shape and the layout of `x`.

  Each is a hash of its place and of two words. A loop can make them again in
  each of its turns, on whatever devices `x` lies, and a hash compiles as fast
  as any elementwise function, where a generator would not.

  Args:
    x: an array; its values do not matter.
    words: two uint32, such as `jax.random.bits(key, (2,), 'uint32')`.

  References:
    Wellons, `Prospecting for Hash Functions
    <https://nullprogram.com/blog/2018/07/31/>`_, 2018: a function with a bias
    of less than 2e-4 of its 32 bits
  """
  def mixed(bits):
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
      bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return bits ^ (bits >> 15)

  # Laid out as x. A word comes first: XLA moves what depends on nothing out of
  # a loop, and holds it.
  place = jnp.zeros_like(x, jnp.uint32) + words[0]
  stride = 1
  for axis in reversed(range(x.ndim)):
    place += jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  bits = mixed(mixed(place) + words[1])
  if stride > 2**32:  # Places begin again after 2**32.
    bits = mixed(bits + mixed(jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, 0) + words[0]))
  return (bits >> 8).astype(jnp.float32) * jnp.float32(2.**-24)


def varying_as(tree: Any, made: Callable[[], Any]) -> Any:
  """A tree whose arrays vary over the same mesh axes as other arrays.

  A loop in `jax.shard_map` needs this, because its initial value must have the
  type of the value after an iteration. Elsewhere the tree is returned as it is.

  Args:
    tree: a tree of arrays.
    made: a function that makes the other arrays. It is traced only in
      `jax.shard_map`.
  """
  if not _in_shard_map():
    return tree
  axes = _varying(*jax.make_jaxpr(made)().out_avals)
  return jax.tree.map(lambda x: vary(x, axes), tree)


def either(condition: jax.typing.ArrayLike, one: Callable[[], T],
           other: Callable[[], T]) -> T:
  """`lax.cond` of functions whose arrays may vary over other mesh axes.

  In `jax.shard_map` the results of both have to vary alike; each array is made
  to vary over the axes that it varies over in either of them.
  """
  if _in_shard_map():
    axes = [*map(_varying, *(
        jax.make_jaxpr(f)().out_avals for f in (one, other)))]

    def alike(f):
      leaves, structure = jax.tree.flatten(f())
      return structure.unflatten(map(vary, leaves, axes))
    one, other = (functools.partial(alike, f) for f in (one, other))
  return jax.lax.cond(condition, one, other)


def varies(tree: Any) -> frozenset[str]:
  """The mesh axes of a `jax.shard_map` that any of the arrays varies over."""
  return _varying(*map(jax.typeof, jax.tree.leaves(tree)))


def _in_shard_map() -> bool:
  return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _varying(*types: Any) -> frozenset[str]:
  axes = frozenset()
  for kind in types:  # Older releases of jax have the axes as `vma`.
    manual = getattr(kind, 'manual_axis_type', None)
    axes |= getattr(kind, 'vma', axes) if manual is None else manual.varying
  return axes


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """The array as one that varies over mesh axes of a `jax.shard_map`."""
  missing = axes - varies(x)
  return jax.lax.pcast(x, tuple(missing), to='varying') if missing else x


def alike(tree: T) -> T:
  """A tree whose arrays vary over the mesh axes that any of them varies over.

  What is linear in one of the arrays has a gradient that varies as it does, and
  is transposed without a sum over devices.
  """
  axes = varies(tree)
  return jax.tree.map(lambda x: vary(x, axes), tree)


def zeros(shape: Sequence[int], dtype: Any, like: Any) -> jax.Array:
  """Zeros that vary over the mesh axes that any array of a tree varies over."""
  return vary(jnp.zeros(shape, dtype), varies(like))


@functools.partial(jax.jit, static_argnums=0)
def places(n: int) -> list[jax.Array]:
  """The numbers from 0 to n - 1, which the compiler does not know.

  XLA compiles kernels once that are the same, as those of layers of one shape
  are. A kernel that reads its number from a table would be another one for each
  place in the table, if that were a constant.
  """
  known = [jnp.int32(i) for i in range(n)]
  return jax.lax.while_loop(
      lambda carry: ~carry[0], lambda carry: (jnp.bool_(True), known),
      (jnp.bool_(False), [jnp.int32(-1)] * n))[1]


def rows_at(table: jax.Array, at: Sequence[jax.Array]) -> list[jax.Array]:
  """The rows, or numbers, of a table at some `places`."""
  return [jax.lax.dynamic_index_in_dim(table, i, keepdims=False) for i in at]


def joined(x: Any, more: Any) -> jax.Array:
  """A sum of any numbers, or bits; keys stay what they are.

  A function with something added is traced to see what that belongs to.
  """
  x = jnp.asarray(x)
  if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == jnp.bool_):
    return x
  join = jnp.logical_xor if x.dtype == jnp.bool_ else jax.lax.add
  return join(x, jnp.broadcast_to(more, x.shape))


def replicated(x: jax.Array) -> jax.Array:
  """Undoes an explicit sharding, which some operations do not accept."""
  sharding = jax.typeof(x).sharding
  if any(part is not None for part in sharding.spec):
    everywhere = jax.sharding.PartitionSpec()
    return jax.sharding.reshard(
        x, jax.sharding.NamedSharding(sharding.mesh, everywhere))
  return x


def whole_along(x: jax.Array, axis: int) -> jax.Array:
  """An array whose explicit sharding does not cut an axis."""
  sharding = jax.typeof(x).sharding
  spec = [*sharding.spec] + [None] * (x.ndim - len(sharding.spec))
  if spec[axis] is None:
    return x
  spec[axis] = None
  return jax.sharding.reshard(x, jax.sharding.NamedSharding(
      sharding.mesh, jax.sharding.PartitionSpec(*spec)))


def everywhere(x: jax.Array) -> jax.Array:
  """A small array that every device of the current mesh has.

  Said of what several large arrays are compared with, lest a partitioner gives
  each of them the layout of another.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.manual_axes or any(
      kind != jax.sharding.AxisType.Auto for kind in mesh.axis_types):
    return x
  return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec())


def split_axes(x: jax.Array, tile: Sequence[int]) -> jax.Array:
  """`[a, b] -> [a / s, s, b / t, t]`, one axis at a time.

  For explicitly sharded arrays, JAX rejects a reshape that splits several axes
  at once, and one that cuts a tile in two. Such an axis is gathered first.

  >>> split_axes(jnp.ones((8, 3)), (4, 1)).shape
  (2, 4, 3, 1)
  """
  for axis in reversed(range(x.ndim)):
    outer = x.shape[axis] // max(tile[axis], 1)
    if outer > 1 and outer % shards(x)[axis]:
      x = whole_along(x, axis)
    x = x.reshape(
        x.shape[:axis] + (outer, tile[axis]) + x.shape[axis + 1:])
  return x


def join_axes(x: jax.Array) -> jax.Array:
  """The inverse of `split_axes`.

  >>> join_axes(jnp.ones((2, 4, 3, 1))).shape
  (8, 3)
  """
  for axis in range(x.ndim // 2):
    size = x.shape[axis] * x.shape[axis + 1]
    x = x.reshape(x.shape[:axis] + (size,) + x.shape[axis + 2:])
  return x


def shards(x: jax.Array) -> list[int]:
  """In how many parts an explicit sharding cuts each axis."""
  sharding = jax.typeof(x).sharding
  spec = [*sharding.spec] + [None] * (x.ndim - len(sharding.spec))
  return [math.prod(sharding.mesh.shape[name] for name in (
      () if part is None else part if isinstance(part, tuple) else (part,)))
          for part in spec]


def as_rows(rows: Sequence[jax.Array], fill: jax.typing.ArrayLike = 0
            ) -> jax.Array:
  """Vectors as rows of one array, filled up."""
  longest = max(row.size for row in rows)
  parts = [part for row in rows for part in (
      row, jnp.full(longest - row.size, fill, row.dtype)) if part.size]
  return jnp.concatenate(parts).reshape(len(rows), longest)
