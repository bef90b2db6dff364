"""`Compressed`: the shape, dtype and bytes of a compressed weight."""

import jax
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
