"""`Compressed`: the shape, dtype and bytes of a compressed weight."""

import json
from typing import Any, Sequence

import jax
from jax import export
import jax.numpy as jnp


class Compressed:
  """A weight stored as its kept entries, `values`, and their places.

  `shape` is the shape of the dense weight: leading axes, then the `contracted`
  axes, over which a product sums, and the `features`, in either order.
  """
  values: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the dense weight."""
    raise NotImplementedError

  @property
  def ndim(self) -> int:
    """The rank of the dense weight."""
    return len(self.shape)

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of the values."""
    return self.values.dtype

  @property
  def nbytes(self) -> int:
    """The bytes of all arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


def register(kind: type[Compressed], *, arrays: Sequence[str],
             static: Sequence[str]) -> None:
  """Makes a pytree of a class, also for programs that `jax.export` saves.

  Args:
    kind: the class.
    arrays: the fields that hold arrays, or more of the same.
    static: the other fields: numbers, texts, or tuples of these.
  """
  jax.tree_util.register_dataclass(
      kind, data_fields=[*arrays], meta_fields=[*static])
  export.register_pytree_node_serialization(
      kind, serialized_name=f'jaxsparse.{kind.__name__}',
      serialize_auxdata=lambda fields: json.dumps(fields).encode(),
      deserialize_auxdata=lambda text: _tuples(json.loads(text)))


def _tuples(x: Any) -> Any:
  """Fields as they were, where JSON has lists."""
  return tuple(map(_tuples, x)) if isinstance(x, list) else x
