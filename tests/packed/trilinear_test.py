"""Every product is differentiated as the dense one, in any mode and order.

Operands are small whole numbers, so that sums are exact in whatever order, and
results equal those that JAX gets of the dense weight.
"""

import collections
import dataclasses
import functools

import jax
from jax.extend import core
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from jaxsparse.packed import condensed
from jaxsparse.packed import layout24
from jaxsparse.packed.products import matmul
from jaxsparse.packed.sharded_training import sharded_training_matmul
from jaxsparse.packed.sharding import sharded_matmul
from jaxsparse.packed.training_product import training_matmul
from tests._lib.packed import two_way
from tests._lib.packed import with_values

pytestmark = pytest.mark.slow

K, N, T = 16, 8, 3


def whole(*shape, seed=0, dtype=jnp.float32):
  """Small whole numbers, none of them zero; ones where eight bits count."""
  rng = np.random.default_rng(seed)
  most = 1 if dtype == jnp.bfloat16 else 3
  return jnp.asarray(rng.integers(1, most + 1, shape)
                     * rng.choice([-1, 1], shape), dtype)


def _packed(layout='planar', transposed=False, dtype=jnp.float32):
  w = layout24.pack(
      jnp.where(two_way(K, N) != 0, whole(K, N, dtype=dtype),
                jnp.zeros((), dtype)), transposed=transposed)
  return layout24.with_layout(w, layout), matmul, layout24.unpack


def _condensed(block):
  mask = np.repeat(np.random.default_rng(0).random((K, N // block)) < .4,
                   block, 1)
  w = condensed.condense(whole(K, N), jnp.asarray(mask), block=block)
  return w, matmul, condensed.uncondense


def _mesh():
  return jax.make_mesh((2, 2), ('data', 'model'), (AxisType.Auto,) * 2)


def _sharded(**how):
  shape = (512, N) if 'rows' in how else (K, N)
  w = layout24.pack(jnp.where(two_way(*shape) != 0, whole(*shape), 0.))
  return w, functools.partial(
      sharded_matmul, mesh=_mesh(), batch='data', **how), layout24.unpack


def _training(product):
  return (jnp.where(two_way(K, N) != 0, whole(K, N), 0.), product,
          lambda w: w)


_CASES = {
    'planar': _packed,
    'hopper': lambda: _packed('hopper', dtype=jnp.bfloat16),
    'transposed': lambda: _packed(transposed=True),
    'by XLA': lambda: (
        lambda w, f, g: (w, functools.partial(f, implementation='xla'), g))(
            *_packed()),
    'blocks': lambda: _condensed(4),
    'fan-in': lambda: _condensed(1),
    'columns': lambda: _sharded(columns='model'),
    'rows': lambda: _sharded(rows='model'),
    'training': lambda: _training(
        functools.partial(training_matmul, check=False)),
    'training by columns': lambda: _training(functools.partial(
        sharded_training_matmul, columns='model', batch='data', mesh=_mesh())),
}
_ALL = pytest.mark.parametrize('case', _CASES)
_SOME = pytest.mark.parametrize('case', [
    'planar', 'hopper', 'blocks', 'fan-in', 'training', 'columns'])


class Case:
  """A product and the dense one, of `x` and the values of a weight."""

  def __init__(self, case):
    self.w, product, dense = _CASES[case]()
    self.is_array = isinstance(self.w, jax.Array)
    self.values = self.w if self.is_array else self.w.values
    self.product = lambda x, v: product(x, self.of(v))
    self.dense = lambda x, v: x @ dense(self.of(v))
    self.x, self.dx = (
        whole(2 * T, self.w.shape[0], seed=seed, dtype=self.w.dtype)
        for seed in (1, 2))
    # Of what is padded or kept nowhere there is no change.
    self.dv = whole(*self.values.shape, seed=3, dtype=self.w.dtype)
    if not self.is_array:
      self.dv = jnp.where(self.values == 0, jnp.zeros_like(self.dv), self.dv)

  def of(self, values):
    return values if self.is_array else with_values(self.w, values)

  def same(self, f, *operands):
    """Whether `f(product)` and `f(dense)` are the same function."""
    made, expected = jax.jit(lambda *operands: [
        f(y)(*operands) for y in (self.product, self.dense)])(*operands)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(expected),
                    strict=True):
      assert a.dtype == b.dtype and a.shape == b.shape
      np.testing.assert_array_equal(np.float64(a), np.float64(b))


def loss(y):
  """Not linear in its operands, and small enough to be exact in bfloat16."""
  return lambda x, v: (y(x, v).astype(jnp.float32)**2).sum()


def hvp(f):
  """Forward over reverse."""
  return lambda x, v, dx, dv: jax.jvp(jax.grad(f, (0, 1)), (x, v), (dx, dv))


@_ALL
def test_forward_mode_is_that_of_the_dense_product(case):
  c = Case(case)
  c.same(lambda y: lambda *a: jax.jvp(y, a[:2], a[2:]),
         c.x, c.values, c.dx, c.dv)
  c.same(lambda y: lambda x, dx: jax.jvp(
      lambda x: y(x, c.values), (x,), (dx,)), c.x, c.dx)
  c.same(lambda y: lambda v, dv: jax.jvp(
      lambda v: y(c.x, v), (v,), (dv,)), c.values, c.dv)


@_ALL
def test_products_with_hessians_are_those_of_the_dense_product(case):
  c = Case(case)
  operands = c.x, c.values, c.dx, c.dv
  c.same(lambda y: hvp(loss(y)), *operands)
  along = lambda f: lambda x, v: jax.jvp(f, (x, v), (c.dx, c.dv))[1]
  c.same(lambda y: jax.grad(along(loss(y)), (0, 1)), *operands[:2])
  c.same(lambda y: jax.grad(
      lambda x, v: jnp.vdot(jax.grad(loss(y), 1)(x, v), c.dv), (0, 1)),
      *operands[:2])
  c.same(lambda y: along(along(loss(y))), *operands[:2])


@_SOME
def test_a_linearized_product_is_run_and_transposed(case):
  c = Case(case)

  def f(y):
    def run(x, v, dx, dv, dy):
      out, tangent = jax.linearize(y, x, v)
      return out, tangent(dx, dv), jax.linear_transpose(
          tangent, dx, dv)(dy)
    return run
  c.same(f, c.x, c.values, c.dx, c.dv,
         jnp.ones((2 * T, N), c.w.dtype))


@_SOME
def test_jacobians_are_the_same_forward_and_in_reverse(case):
  c = Case(case)
  operands = c.x[:2], c.values
  # Forward the dense product tells of what is kept, pruned or padded.
  made, expected = jax.jit(lambda *a: (
      [jacobian(c.product, (0, 1))(*a)
       for jacobian in (jax.jacfwd, jax.jacrev)],
      jax.jacfwd(c.dense, (0, 1))(*a)))(*operands)
  for jacobians in made:
    for a, b in zip(jacobians, expected, strict=True):
      np.testing.assert_array_equal(np.float64(a), np.float64(b))


# All ways for a product of one layout and one of an array, and each of the
# others in one: what is mapped of them is the same.
@pytest.mark.parametrize('case, axes', [
    *((case, axes) for case in ('planar', 'training')
      for axes in ((0, None), (None, 0), (0, 0))),
    ('hopper', (0, 0)), ('blocks', (None, 0)), ('fan-in', (0, 0)),
    ('columns', (0, None))], ids=str)
def test_derivatives_are_mapped_and_maps_are_derived(case, axes):
  c = Case(case)
  batch = lambda a, axis: a if axis is None else jnp.stack([a, -a, a])
  tokens = slice(0, 2)
  x, dx, v, dv = (
      batch(a, axis) for a, axis in ((c.x[tokens], axes[0]),
                                     (c.dx[tokens], axes[0]),
                                     (c.values, axes[1]), (c.dv, axes[1])))
  mapped = lambda f: jax.vmap(f, axes)
  total = lambda y: lambda x, v: loss(mapped(y))(x, v)
  c.same(lambda y: mapped(jax.grad(lambda x, v: y(x, v).sum(), (0, 1))), x, v)
  c.same(lambda y: jax.vmap(lambda x, v, dx, dv: jax.jvp(
      y, (x, v), (dx, dv)), axes * 2), x, v, dx, dv)
  c.same(lambda y: lambda *a: jax.jvp(mapped(y), a[:2], a[2:]), x, v, dx, dv)
  c.same(lambda y: jax.grad(total(y), (0, 1)), x, v)
  c.same(lambda y: hvp(total(y)), x, v, dx, dv)
  c.same(lambda y: jax.vmap(jax.vmap(jax.grad(loss(y), (0, 1)), axes), axes),
         *(a if axis is None else jnp.stack([a, a])
           for a, axis in zip((x, v), axes)))


@pytest.mark.parametrize('case', ['planar', 'fan-in'])
def test_positions_are_mapped_too(case):
  c = Case(case)
  flip = lambda a: jnp.flip(a, -1)
  weights = jax.tree.map(lambda a: jnp.stack([a, flip(a)]), c.w)
  changes = with_values(weights, jnp.stack([c.dv, flip(c.dv)]))
  dense = layout24.unpack if case == 'planar' else condensed.uncondense

  def f(product):
    def run(x, w, dw):
      y = lambda x, v, w: product(x, with_values(w, v))
      outs = lambda x, v: jax.vmap(y, (None, 0, 0))(x, v, w)
      return (jax.jvp(outs, (x, w.values), (c.dx, dw.values)),
              hvp(loss(outs))(x, w.values, c.dx, dw.values))
    return jax.jit(run)(c.x, weights, changes)
  for a, b in zip(jax.tree.leaves(f(matmul)),
                  jax.tree.leaves(f(lambda x, w: x @ dense(w))), strict=True):
    np.testing.assert_array_equal(a, b)


@_SOME
@pytest.mark.parametrize('remat', [False, True])
def test_loops_and_checkpoints_are_derived_in_both_modes(case, remat):
  c = Case(case)

  def layers(y):
    def step(total, x):
      return total + y(x, c.values).astype(jnp.float32).sum(), None
    step = jax.checkpoint(step) if remat else step
    return lambda x: jax.lax.scan(step, jnp.float32(0), jnp.stack([x, -x]))[0]

  def weights(y, x):
    y = jax.checkpoint(y) if remat else y
    return lambda v: y(x, v).astype(jnp.float32).sum()
  both = lambda f, a, da: (jax.jvp(f, (a,), (da,)), jax.grad(f)(a))
  c.same(lambda y: lambda x, dx: both(layers(y), x, dx), c.x, c.dx)
  # XLA of jax 0.8 folds constants wrongly, so that x is none.
  c.same(lambda y: lambda x, v, dv: both(weights(y, x), v, dv),
         c.x, c.values, c.dv)


def counted(f, *operands):
  """How often each primitive stands in a function, in what it calls, too."""
  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      counts[eqn.primitive.name] += 1
      for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=(
          lambda p: isinstance(p, (core.Jaxpr, core.ClosedJaxpr)))):
        if isinstance(inner, (core.Jaxpr, core.ClosedJaxpr)):
          walk(getattr(inner, 'jaxpr', inner))
  counts = collections.Counter()
  walk(jax.make_jaxpr(f)(*operands).jaxpr)
  return counts


@_ALL
def test_backward_nothing_but_two_products_is_left(case):
  c = Case(case)
  tree = jax.grad(lambda *a: c.product(*a).sum(), (0, 1))
  assert not counted(tree, c.x, c.values)['product_tangent']


@pytest.mark.parametrize('case', ['by XLA', 'training'])
@pytest.mark.parametrize('argnums, products', [
    (0, 2), (1, 2), ((0, 1), 3)], ids=str)
def test_a_gradient_that_nobody_asked_for_costs_nothing(
    case, argnums, products):
  c = Case(case)
  f = jax.grad(lambda *a: (c.product(*a)**2).sum(), argnums)
  assert counted(f, c.x, c.values)['dot_general'] == products


def test_int8_values_are_constants():
  w = layout24.pack(jnp.where(two_way(K, N) != 0, 3, 0).astype(jnp.int8))
  x = whole(T, K)
  y, dy = jax.jvp(lambda x: matmul(x.astype(jnp.int8), w), (x,), (x,))
  assert y.dtype == jnp.int32 and dy.dtype == jax.dtypes.float0


def test_positions_and_the_transposed_form_have_no_say():
  w, y, _ = _packed(transposed=True)
  x = whole(T, K)
  zero = jax.tree.map(
      lambda a: np.zeros(a.shape, jax.dtypes.float0)
      if a.dtype == jnp.int32 else jnp.zeros_like(a), w)
  change = dataclasses.replace(zero, transposed=with_values(
      zero.transposed, jnp.ones_like(w.transposed.values)))
  _, dy = jax.jvp(lambda w: y(x, w), (w,), (change,))
  assert not dy.any()
  grads = jax.grad(lambda w: y(x, w).sum(), allow_int=True)(w)
  assert grads.positions.dtype == jax.dtypes.float0
  assert not grads.transposed.values.any() and grads.values.any()
