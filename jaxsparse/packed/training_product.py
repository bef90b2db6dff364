"""`training_matmul`: the product of 2:4 training, which packs at every step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse.packed import _dispatch
from jaxsparse.packed import _gpu
from jaxsparse.packed import _operands
from jaxsparse.packed import _trilinear
from jaxsparse.packed import _xla
from jaxsparse.packed import layout24
from jaxsparse.packed._dispatch import Implementation
from jaxsparse.packed.layout24 import Packed24

# `[..., K], [K, N] -> [..., N]`.
_PRODUCTS = {'gpu': _gpu.matmul_packing, 'xla': _xla.dense}


@arguments.checked()
def training_matmul(
    x: jax.Array, w: jax.Array, *, implementation: Implementation = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    check: bool = True) -> jax.Array:
  """The product `x @ w` of 2:4 training: forward and input gradient packed.

    y = x @ w,   dx = dy @ w.T,   dw = x.T @ dy (dense)

  `w` is the sparse point, `sparse_params(params, opt_state)`, with the masks of
  `nm(2, 4, transposable=True)`. It is 2:4 along both axes, so the sparse tensor
  cores of a Hopper GPU compute both `y` and `dx`. The weight is packed anew at
  every step. The gradient of `w` is dense and covers pruned weights, as all
  flows need. The tangent of the weight, `x @ dw`, is a dense product, and the
  tangent of `x`, `dx @ w`, a packed one. TPUs have no sparse units, and XLA
  uses none, so there all three products are dense. The compiler cannot
  partition a kernel on a mesh with Auto axes; there use
  `sharded_training_matmul`, or implementation='xla'.

  Args:
    x: the inputs, `[..., K]`.
    w: the weight, `[K, N]`, 2:4 along both axes.
    implementation: the implementation, 'gpu' or 'xla', see `matmul`.
    preferred_element_type: the dtype of the result, see `matmul`.
    check: whether to check outside of `jit` that the weight is 2:4.

  Returns:
    The product, `[..., N]`.

  Raises:
    ValueError: if shapes do not fit, or the weight is not 2:4 in both
      directions. Inside of `jit` or `grad` the latter is not checked; there the
      GPU kernel silently drops all but the two largest of every four entries in
      each direction, and XLA uses all entries.
    NotImplementedError: if no requested implementation can serve.

  References:
    Hubara et al., `Accelerated Sparse Neural Training
    <https://arxiv.org/abs/2102.08124>`_, 2021. A later work (Chmiel et al.,
    2022) also sparsifies dw; here dw is always dense.

  >>> w = jnp.array([[1., 2., 0., 0.], [3., 4., 0., 0.],
  ...                [0., 0., 5., 6.], [0., 0., 7., 8.]])
  >>> training_matmul(jnp.ones((1, 4)), w)
  Array([[ 4.,  6., 12., 14.]], dtype=float32)
  """
  check_operands('training_matmul', x, w)
  if check and not isinstance(w, jax.core.Tracer) and not (
      layout24.is_24(w) and layout24.is_24(w, -1)):
    raise ValueError(
        'training_matmul(x, w) needs a weight that is 2:4 along both axes, got '
        'another one. Prune by jaxsparse.nm(2, 4, transposable=True) and pass '
        'jaxsparse.sparse_params(params, opt_state), or write x @ w.')
  dtype = jnp.result_type(x, w)
  out = _operands.result_dtype(x, w, preferred_element_type)
  # In `jax.shard_map` the products of a form have operands that vary alike.
  x, w = numerics.alike((x.astype(dtype), w.astype(dtype)))
  form = _Form(
      _dispatch.names_of(implementation), out, jax.typeof(x), jax.typeof(w))
  return _trilinear.derivative(form, _trilinear.DY, x, w, None)


def check_operands(name: str, x: jax.Array, w: jax.Array) -> None:
  """Raises if a product of 2:4 training of that name does not fit.

  Raises:
    ValueError: if the weight is packed already, or shapes do not fit.
  """
  if isinstance(w, Packed24):
    raise ValueError(
        f'{name}(x, w) needs a dense weight, got a packed one. Write '
        f'{name.replace("training_", "")}(x, w).')
  if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
    raise ValueError(
        f'{name}(x, w) needs x [..., K] and w [K, N], got {x.shape} and '
        f'{w.shape}. Stacked weights go through jax.vmap or jax.lax.scan.')


@dataclasses.dataclass(frozen=True)
class _Form(_trilinear.Form):
  """The products of `x`, `w` and `dy`.

  Attributes:
    names: as `_dispatch.run` takes them.
    dtype: the dtype of the result.
    x: the type of `x`.
    w: that of `w`.
  """
  names: tuple[str, ...] | None
  dtype: Any
  x: Any
  w: Any

  def y(self, x: jax.Array, w: jax.Array, rest: None) -> jax.Array:
    return product(x, w, self.names, self.dtype)

  def dx(self, w: jax.Array, dy: jax.Array, rest: None) -> jax.Array:
    return input_gradient(
        dy.astype(self.x.dtype), self.x, w, self.names, self.x.dtype)

  def dw(self, x: jax.Array, dy: jax.Array, rest: None) -> jax.Array:
    return _xla.weight_gradient(dy.astype(x.dtype), x, self.w)

  def of_change(self) -> '_Form':
    # A change of the weight is dense, as its gradient is: packed it would lose
    # entries.
    return dataclasses.replace(self, names=('xla',))


def product(x: jax.Array, w: jax.Array, names: tuple[str, ...] | None,
            dtype: Any) -> jax.Array:
  """`x @ w`, of operands of one dtype and names as `_dispatch.run` takes."""
  return _dispatch.run(names, _PRODUCTS, x, w, dtype)


def input_gradient(dy: jax.Array, x: Any, w: jax.Array,
                   names: tuple[str, ...] | None, dtype: Any) -> jax.Array:
  """`dy @ w.T`, in the shape of `x`, of which the type is read alone.

  No kernel shards its result.
  """
  choices = {} if any(x.sharding.spec) else {**_PRODUCTS}
  choices['xla'] = _xla.transposed(
      lambda x, wt, dtype: _xla.dense(x, wt.mT, dtype), x)
  return _dispatch.run(names, choices, dy, w.mT, dtype)

