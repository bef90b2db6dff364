"""Products that are derivatives of one trilinear form, and their derivatives.

A product `y = x @ w` and its two gradients belong to the form

    T(x, w, dy) = sum(dy * (x @ w)),

which is linear in each of three arguments. The derivative with respect to one
argument is a product of the two others: `dx = dy @ w.T` for argument 0,
`dw = x.T @ dy` for argument 1 and `y` itself for argument 2. Hence the tangent
of one of these products consists of products of the same three kinds, and so
does the transpose of a tangent. `derivative` declares these rules to JAX:
forward and reverse mode of any order run only the three products of a `Form`.
These may be kernels that JAX cannot differentiate.

A tangent is a primitive of its own, because JAX has no other way to define a
linear function with a transpose, derivatives and `vmap`. Reverse mode replaces
the primitive by its transpose.
"""

import dataclasses
import functools
from typing import Any, Sequence

import jax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp
import numpy as np

X, W, DY = range(3)


class Form:
  """The three products; a form is static under `jit`, so it must be hashable.

  `rest` is a pytree of the other arrays that products read, such as positions.
  It has no derivatives.
  """

  def product(self, of: int, first: jax.Array, second: jax.Array, rest: Any
              ) -> jax.Array:
    """The derivative with respect to argument `of`, from the other two."""
    make = (self.dx, self.dw, self.y)[of]
    return make(first, second, rest)

  def y(self, x: jax.Array, w: jax.Array, rest: Any) -> jax.Array:
    """`x @ w`, `[..., K] -> [..., N]`."""
    raise NotImplementedError

  def dx(self, w: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    """`dy @ w.T`, `[..., N] -> [..., K]`."""
    raise NotImplementedError

  def dw(self, x: jax.Array, dy: jax.Array, rest: Any) -> jax.Array:
    """`x.T @ dy`, in the shape of `w`."""
    raise NotImplementedError

  def of_change(self) -> 'Form':
    """The form for a tangent of the weight, which may lack its sparsity."""
    return self


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def derivative(form: Form, of: int, first: jax.Array, second: jax.Array,
               rest: Any) -> jax.Array:
  """`form.product(of, first, second, rest)`, differentiable in all orders."""
  return form.product(of, first, second, rest)


def _derivative_jvp(form, of, primals, tangents):
  y = derivative(form, of, *primals)
  changes = [None if isinstance(t, jax.custom_derivatives.SymbolicZero) else t
             for t in tangents[:2]]
  leaves, tree = jax.tree.flatten(primals[2])
  return y, _tangent(y, form, of, (*primals[:2], *leaves), changes, tree)


derivative.defjvp(_derivative_jvp, symbolic_zeros=True)


def _others(of: int) -> tuple[int, int]:
  """The two arguments that remain in the derivative with respect to one."""
  first, second = (i for i in range(3) if i != of)
  return first, second


def _tangent(y: jax.Array, form: Form, of: int, operands: Sequence[Any],
             changes: Sequence[Any], tree: Any) -> Any:
  """The tangent of `y`; in `changes`, `None` is a tangent of zero."""
  if not jnp.issubdtype(y.dtype, jnp.inexact):
    return np.zeros(y.shape, jax.dtypes.float0)
  terms = []
  for i, (linear, change) in enumerate(zip(_others(of), changes)):
    if change is not None:
      terms.append(_tangent_p.bind(
          *operands[:i], change, *operands[i + 1:],
          form=form.of_change() if linear == W else form, of=of,
          linear=linear, tree=tree))
  return sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(y)


_tangent_p = core.Primitive('product_tangent')


@_tangent_p.def_impl
def _run(first, second, *rest, form, of, linear, tree):
  del linear
  return form.product(of, first, second, jax.tree.unflatten(tree, rest))


mlir.register_lowering(
    _tangent_p, mlir.lower_fun(_run, multiple_results=False))


@_tangent_p.def_abstract_eval
def _type_of(*avals, **params):
  aval, = jax.make_jaxpr(functools.partial(_run, **params))(*avals).out_avals
  return aval


def _tangent_jvp(primals, tangents, *, form, of, linear, tree):
  y = _tangent_p.bind(*primals, form=form, of=of, linear=linear, tree=tree)
  changes = [None if type(t) is ad.Zero else t for t in tangents[:2]]
  return y, _tangent(y, form, of, primals, changes, tree)


ad.primitive_jvps[_tangent_p] = _tangent_jvp


def _tangent_transpose(dy, *operands, form, of, linear, tree):
  gradients: list[Any] = [None] * len(operands)
  place = _others(of).index(linear)
  if type(dy) is ad.Zero or not ad.is_undefined_primal(operands[place]):
    return gradients
  known = {of: dy, _others(of)[1 - place]: operands[1 - place]}
  gradients[place] = derivative(
      form.of_change() if of == W else form, linear,
      *(known[i] for i in _others(linear)),
      jax.tree.unflatten(tree, operands[2:]))
  return gradients


ad.primitive_transposes[_tangent_p] = _tangent_transpose


@dataclasses.dataclass(frozen=True)
class _Mapped(Form):
  """The form of a batch: the sum of a form over axis 0 of some operands.

  Attributes:
    form: the form of one element.
    arguments: for each of the three arguments, whether it has the batch axis.
    rest: for each of the other arrays, whether it has the batch axis.
    spmd: the mesh axes that split the batch, `spmd_axis_name` of `jax.vmap`.
  """
  form: Form
  arguments: tuple[bool, ...]
  rest: tuple[bool, ...]
  spmd: Any

  def product(self, of: int, first: jax.Array, second: jax.Array, rest: Any
              ) -> jax.Array:
    leaves, tree = jax.tree.flatten(rest)
    has_axis = (*(self.arguments[i] for i in _others(of)), *self.rest)
    y = jax.vmap(
        lambda first, second, *rest: self.form.product(
            of, first, second, jax.tree.unflatten(tree, rest)),
        in_axes=tuple(0 if has else None for has in has_axis),
        spmd_axis_name=self.spmd)(first, second, *leaves)
    return y if self.arguments[of] else y.sum(0)

  def of_change(self) -> Form:
    return dataclasses.replace(self, form=self.form.of_change())


def _tangent_batched(axis, operands, axes, *, form, of, linear, tree):
  operands = [x if d is None else jnp.moveaxis(x, d, 0)
              for x, d in zip(operands, axes)]
  first, second, *rest = (d is not None for d in axes)
  has_axis = dict(zip(_others(of), (first, second)))
  form = _Mapped(form, tuple(has_axis.get(i, True) for i in range(3)),
                 tuple(rest), axis.spmd_name)
  return _tangent_p.bind(
      *operands, form=form, of=of, linear=linear, tree=tree), 0


batching.fancy_primitive_batchers[_tangent_p] = _tangent_batched
