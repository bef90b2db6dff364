"""Layers of stacked arrays, with one program for all of them."""

import functools
from typing import Any, Iterable, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils import meshes

# Axes that are taken apart, and where on each.
Index = Sequence[tuple[int, int]]


def at(index: Iterable[tuple[int, int]], rank: int) -> tuple[Any, ...]:
  """The same as an index of NumPy.

  >>> at([(1, 2)], 2)
  (slice(None, None, None), 2)
  """
  found: list[Any] = [slice(None)] * rank
  for axis, k in index:
    found[axis] = k
  return tuple(found)


def take(x: jax.Array, index: Index) -> jax.Array:
  """What is left of an array at places of some axes.

  >>> take(jnp.arange(6).reshape(2, 3), [(1, 2)])
  Array([2, 5], dtype=int32)
  """
  axes, places = _apart(index)
  return _take(x, places, axes=axes) if axes else x


def put(x: jax.Array, new: jax.Array, index: Index) -> jax.Array:
  """The array with something else at these places.

  >>> put(jnp.zeros((2, 2)), jnp.ones(2), [(0, 1)])
  Array([[0., 0.],
         [1., 1.]], dtype=float32)
  """
  axes, places = _apart(index)
  # A layer may lie on the mesh of data, and the whole array nowhere.
  return _put(meshes.beside(x, new), new, places,
              axes=axes) if axes else new.astype(x.dtype)


def _apart(index: Index) -> tuple[tuple[int, ...], list[Any]]:
  ordered = sorted(index)
  return (tuple(axis for axis, _ in ordered),
          [jnp.int32(k) for _, k in ordered])


@functools.partial(jax.jit, static_argnames='axes')
def _take(x: jax.Array, places: Sequence[Any], *, axes: tuple[int, ...]
          ) -> jax.Array:
  for axis, k in reversed([*zip(axes, places)]):
    x = lax.dynamic_index_in_dim(x, k, axis, keepdims=False)
  return x


@functools.partial(jax.jit, static_argnames='axes')
def _put(x: jax.Array, new: jax.Array, places: Sequence[Any], *,
         axes: tuple[int, ...]) -> jax.Array:
  starts: list[Any] = [jnp.int32(0)] * x.ndim
  for axis, k in zip(axes, places):
    starts[axis] = k
  return lax.dynamic_update_slice(
      x, jnp.expand_dims(new, axes).astype(x.dtype), starts)
