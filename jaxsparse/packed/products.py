"""`matmul`: products with compressed weights, with several implementations.

`matmul` uses the kernel of the platform, or XLA if the kernel cannot serve the
operands. Products with condensed weights always use XLA.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse.packed import _condensed_products
from jaxsparse.packed import _dispatch
from jaxsparse.packed import _gpu
from jaxsparse.packed import _groups
from jaxsparse.packed import _hopper_layout
from jaxsparse.packed import _operands
from jaxsparse.packed import _tpu
from jaxsparse.packed import _trilinear
from jaxsparse.packed import _xla
from jaxsparse.packed import layout24
from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed.condensed import Condensed
from jaxsparse.packed.layout24 import Packed24

# `[..., K], w -> [..., N]` and `[..., N], w -> [..., K]`.
_PRODUCTS = {'gpu': _gpu.matmul, 'tpu': _tpu.matmul, 'xla': _xla.matmul}
_TRANSPOSED = {'gpu': _gpu.matmul_transposed, 'tpu': _tpu.matmul_transposed}
_CONDENSED = {'xla': _condensed_products.matmul}


@arguments.checked()
def matmul(x: jax.Array, w: Packed24 | Condensed, *,
           implementation: Implementation = None,
           preferred_element_type: jax.typing.DTypeLike | None = None
           ) -> jax.Array:
  """The product `x @ w` with a packed 2:4 weight, or a condensed one.

    y[..., n] = sum_k x[..., k] * w[k, n],   summed in float32

  The product is differentiable in every mode and order (`grad`, `jvp`,
  `linearize`, Hessians). The tangent consists of two more such products,

    dy = dx @ w + x @ dw.

  The gradient of `x` is `dy @ w.T`. A kernel computes it on TPU, and on GPU if
  the weight has `w.transposed`; XLA computes it otherwise. The gradient of the
  kept values, `w.values`, is `x.T @ dy` at their positions. Both take `dy` in
  the dtype of the operands. Positions have no gradient, so differentiate with
  respect to the values:

    jax.grad(lambda v: loss(dataclasses.replace(w, values=v)))(w.values)

  `w.transposed` has no gradient either, and its tangent is ignored. To train
  the values, pack without `transposed`; to train the weight itself, use
  `training_matmul`.

  With a condensed weight, XLA gathers inputs and multiplies them with the kept
  values on every platform,

    y[..., S * j + s] = sum_f x[..., indices[j, f]] * values[j, f, s],

  and computes the derivatives. The compiler can shard this product over block
  columns.

  Args:
    x: the inputs, `[..., K]`. If the weight has several contracted axes, like
      attention's output, they are the last axes of `x`.
    w: the result of `pack` or `condense`, without leading axes; use `jax.vmap`
      or `lax.scan` for these. The compiler cannot shard kernels, so with a
      packed weight on a mesh use `sharded_matmul`.
    implementation: `None` uses the kernel of the platform that the program is
      lowered for, or XLA. 'gpu' (Hopper), 'tpu' or 'xla' uses this
      implementation only. A sequence uses the first one that can serve.
    preferred_element_type: the dtype of the result; by default the promoted
      dtype of `x` and `w`, and int32 for integers of fewer bits.

  Returns:
    The product, `[..., *features]`; the features are (N,) for a weight
    `[K, N]`.

  Raises:
    ValueError: if shapes do not fit.
    NotImplementedError: if no requested implementation can serve; the message
      has all reasons.

  References:
    Mishra et al., `Accelerating Sparse Deep Neural Networks
    <https://arxiv.org/abs/2104.08378>`_, 2021

  >>> from jaxsparse.packed import condense
  >>> from jaxsparse.packed import pack
  >>> w = jnp.array([[1., 0.], [0., 0.], [2., 3.], [0., 4.]])
  >>> matmul(jnp.array([[1., 1., 1., 1.]]), pack(w))
  Array([[3., 7.]], dtype=float32)
  >>> matmul(jnp.array([[1., 1., 1., 1.]]), condense(w, w != 0, block=1))
  Array([[3., 7.]], dtype=float32)
  >>> x = jnp.ones((1, 4))
  >>> jax.jvp(lambda x: matmul(x, pack(w)), (x,), (2 * x,))[1]
  Array([[ 6., 14.]], dtype=float32)
  """
  _operands.check_operands(x, w)
  dtype = _operands.result_dtype(x, w.values, preferred_element_type)
  rank = len(w.contracted)
  leading = x.shape[:x.ndim - rank]
  x = x.reshape(*leading, math.prod(w.contracted)).astype(
      jnp.result_type(x, w.values))
  # In `jax.shard_map` the products of a form have operands that vary alike.
  x, w = numerics.alike((x, w))
  names = _dispatch.names_of(implementation)
  if isinstance(w, Condensed):
    y = _dispatch.run(names, _CONDENSED, x, w, dtype)
  else:
    form = _Form(names, dtype, jax.typeof(x), w.dtype)
    y = _trilinear.derivative(
        form, _trilinear.DY, x, w.values, layout24.without_values(w))
  return y.reshape(*leading, *w.features)


@dataclasses.dataclass(frozen=True)
class _Form(_trilinear.Form):
  """The products of `x`, `w.values` and `dy`; `rest` is `w` without values.

  Attributes:
    names: as `_dispatch.run` takes them.
    dtype: the dtype of the result.
    x: the type of `x`.
    values: the dtype of the values.
  """
  names: tuple[str, ...] | None
  dtype: Any
  x: Any
  values: Any

  def y(self, x: jax.Array, w: jax.Array, rest: Any) -> jax.Array:
    return _dispatch.run(
        self.names, _PRODUCTS, x, dataclasses.replace(rest, values=w),
        self.dtype)

  def dx(self, w: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    return input_gradient(
        dy, self.x, dataclasses.replace(rest, values=w), self.names,
        self.x.dtype)

  def dw(self, x: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    return value_gradient(dy, x, rest, self.values)


def input_gradient(dy: jax.Array, x: Any, w: Packed24,
                   names: tuple[str, ...] | None, dtype: Any) -> jax.Array:
  """`dy @ w.T` in the shape of `x`, by a kernel where there is one.

  Of `x` the type is read alone.
  """
  # No kernel shards its result.
  choices = {} if any(x.sharding.spec) else {**_TRANSPOSED}
  choices['xla'] = _xla.transposed(_xla.matmul, x)
  # What has a kernel forward may have none backward.
  return _dispatch.run(names and (*names, 'xla'), choices, dy.astype(x.dtype),
                       w, dtype)


def value_gradient(dy: jax.Array, x: jax.Array, w: Packed24, dtype: Any
                   ) -> jax.Array:
  """`x.T @ dy` at the kept places, in the shape of values of that dtype.

  Those of `w` are not read, and may be `None`.
  """
  # Values may be narrower than `x`, which may be beyond their range.
  wide = max(x.dtype, jnp.dtype(dtype), key=lambda kind: kind.itemsize)
  bits = layout24.bits_of(w)

  def zeros():  # Laid out as the weight is, which explicit axes may share out.
    one = numerics.vary(
        jnp.zeros_like(bits, jnp.float32), numerics.varies((dy, x)))
    both = _groups.spread(jnp.stack([one, one]), bits)
    return both[:x.shape[-1]].astype(wide)
  like = jax.eval_shape(zeros)
  matrix = _xla.weight_gradient(dy.astype(x.dtype), x, like)
  if jnp.iscomplexobj(matrix):  # Values are real.
    matrix = matrix.real
  values = _groups.gather(matrix.astype(dtype), bits)
  return _hopper_layout.to_values(values) if w.layout == 'hopper' else values
