"""Wirings: every primitive that is followed does what is said of its axes."""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import axes
from jaxsparse.graph import primitives
from jaxsparse.graph import tracing


def array(*shape, dtype=np.float32):
  return np.random.default_rng(0).normal(size=shape).astype(dtype)


def conv(x, w):
  return lax.conv_general_dilated(
      x, w, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


FUNCTIONS = {
    'add': (lambda x, y: x + y, array(2, 3), array(2, 3)),
    'scalar': (lambda x: x * 2, array(2, 3)),
    'transpose': (lambda x: jnp.transpose(x, (2, 0, 1)), array(2, 3, 4)),
    'broadcast': (lambda x: lax.broadcast_in_dim(x, (3, 2, 4), (1, 2)),
                  array(2, 1)),
    'squeeze': (lambda x: lax.squeeze(x, (1,)), array(2, 1, 3)),
    'sum': (lambda x: x.sum(1), array(2, 3, 4)),
    'max': (lambda x: x.max((0, 2)), array(2, 3, 4)),
    'cumsum': (lambda x: lax.cumsum(x, 1), array(4, 5)),
    'sort': (lambda x: lax.sort(x, dimension=0), array(4, 5)),
    'rev': (lambda x: lax.rev(x, (0,)), array(4, 5)),
    'top_k': (lambda x: lax.top_k(x, 2)[0], array(4, 5)),
    'top_k_over': (lambda x: lax.top_k(x, 2, axis=0)[0], array(4, 5)),
    'dot': (lambda x, y: jnp.einsum('bij,bkj->bik', x, y),
            array(2, 3, 4), array(2, 5, 4)),
    'conv': (conv, array(2, 6, 5, 3), array(3, 2, 3, 4)),
    'pointwise': (conv, array(2, 6, 5, 3), array(1, 1, 3, 4)),
    'pool': (lambda x: lax.reduce_window(
        x, -np.inf, lax.max, (1, 2, 1), (1, 2, 1), 'VALID'), array(2, 6, 3)),
    'gather': (lambda x, i: x.at[i].get(mode='promise_in_bounds'),
               array(6, 3), np.array([[0, 3], [5, 2], [1, 1]])),
    'paired': (lambda x, i: jnp.take_along_axis(x, i, 1),
               array(4, 6), np.array([[0, 3], [5, 2], [1, 1], [2, 0]])),
    'update': (lambda x, y: lax.dynamic_update_slice(x, y, (1, 0)),
               array(6, 3), array(2, 3)),
    'fft': (lambda x: lax.fft(x, 'FFT', (5,)),
            array(4, 5).astype(np.complex64)),
    'scatter': (lambda x, i, y: x.at[i].add(y, mode='promise_in_bounds'),
                array(6, 3), np.array([4, 0]), array(2, 3)),
    'ragged': (lambda x, w, n: lax.ragged_dot(x, w, n),
               array(5, 4), array(2, 4, 3), np.array([2, 3], np.int32)),
}


def equation(f, args):
  """The last equation of a function that has a wiring of its own."""
  eqns = list(jax.make_jaxpr(f)(*args).jaxpr.eqns)
  while any('jaxpr' in e.params for e in eqns):
    eqns = [inner for e in eqns for inner in (
        e.params['jaxpr'].eqns if 'jaxpr' in e.params else [e])]
  return eqns


def permuted(x, axis, rng):
  return rng.permutation(x.shape[axis])


@pytest.mark.parametrize('name', FUNCTIONS)
def test_axes_that_are_not_fixed_may_be_permuted(name):
  f, *args = FUNCTIONS[name]
  rng = np.random.default_rng(1)
  eqn = max(equation(f, args), key=lambda e: len(
      [v for v in e.invars if np.shape(v.aval)]) * 2 + (
          e.primitive.name not in ('lt', 'add', 'select_n')))
  wiring = primitives.wiring(eqn)
  # A run of the equation alone, so that indices that it prepares are given.
  inputs = [array(*v.aval.shape) if jnp.issubdtype(v.aval.dtype, jnp.floating)
            else np.asarray(rng.integers(0, 2, v.aval.shape), v.aval.dtype)
            for v in eqn.invars]
  run = lambda xs: np.asarray(jnp.asarray(jax.tree.leaves(
      eqn.primitive.bind(*map(jnp.asarray, xs), **eqn.params))[0]))
  before = run(inputs)
  groups = [*(w for w in wiring.outputs[0]
              if not isinstance(w, primitives.New)), *wiring.gone]
  used = set(itertools.chain(*groups))
  for wires in groups:
    if any(wire in wiring.fixed for wire in wires):
      continue
    i, axis = wires[0]
    order = permuted(inputs[i], axis, rng)
    moved = list(inputs)
    for i, axis in wires:
      moved[i] = np.take(moved[i], order, axis)
    expected = before
    for out, other in enumerate(wiring.outputs[0]):
      if other == wires:
        expected = np.take(expected, order, out)
    np.testing.assert_allclose(run(moved), expected, rtol=1e-5, atol=1e-5)
  # What is in no group has a reason not to be, or only one index.
  for i, x in enumerate(inputs):
    for axis, size in enumerate(np.shape(x)):
      assert ((i, axis) in used or (i, axis) in wiring.fixed or size == 1
              or eqn.primitive.name == 'gather'), (i, axis)


def test_of_an_unknown_primitive_every_axis_is_fixed():
  eqn, = (e for e in equation(lambda x: jnp.linalg.cholesky(x), [array(3, 3)])
          if e.primitive.name == 'cholesky')
  wiring = primitives.wiring(eqn)
  assert wiring.fixed == [(0, 0), (0, 1)]
  assert wiring.outputs == [[primitives.New(uniform=False)] * 2]


@pytest.mark.parametrize('f, numbers, value', [
    (lambda x, y: x * y, [0., None], 0.),
    (lambda x, y: x + y, [0., None], None),
    (lambda x, y: x + y, [1., 2.], 3.),
    (lambda x, y: x / y, [0., None], 0.),
    (lambda x, y: jnp.maximum(x, y), [0., -1.], 0.),
    (lambda x, y: lax.rsqrt(x), [4.], .5),
    (lambda x, y: lax.rsqrt(x), [0.], None),
    (lambda x, y: x**3, [2.], 8.),
    (lambda x, y: lax.logistic(x), [0.], .5)])
def test_numbers_are_computed_where_they_are_known(f, numbers, value):
  eqns = jax.make_jaxpr(f)(1., 1.).eqns
  assert primitives.evaluate(eqns[-1], numbers) == value


ELEMENTWISE = {
    **{name: getattr(lax, name) for name in '''
        abs add asin asinh atan atan2 atanh bessel_i1e cbrt ceil clamp cos cosh
        digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
        igammac is_finite le lgamma log log1p logistic lt max min mul ne
        neg nextafter polygamma pow rem round rsqrt sign sin sinh sqrt square
        sub tan tanh zeta'''.split()},
    'bool': lambda x: lax.convert_element_type(x, np.bool_),
    'even': lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
    'int': lambda x: lax.convert_element_type(x, np.int32),
    'power': lambda x: lax.integer_pow(x, -2),
    'select': lambda a, b: lax.select_n(np.bool_(1), a, b),
    'whole': lambda x, y: lax.div(x.astype(np.int32), y.astype(np.int32))}


@pytest.mark.parametrize('name', ELEMENTWISE)
def test_what_is_known_of_a_result_is_what_jax_computes(name):
  f = ELEMENTWISE[name]
  for count in (1, 2, 3):
    try:
      eqn = jax.make_jaxpr(f)(*[np.float32(1)] * count).jaxpr.eqns[-1]
    except TypeError:
      continue
    types = [v.aval.dtype for v in eqn.invars]
    for numbers in itertools.product(
        [-2., -.5, 0., .5, 1., 2.5], repeat=len(types)):
      numbers = [float(np.asarray(x).astype(t)) for x, t in zip(numbers, types)]
      result = float(eqn.primitive.bind(
          *(jnp.asarray(x, t) for x, t in zip(numbers, types)), **eqn.params))
      # Of any number: those that have a result.
      for known in itertools.product([True, False], repeat=len(types)):
        got = primitives.evaluate(
            eqn, [x if k else None for x, k in zip(numbers, known)])
        if got is not None and np.isfinite(result) and (
            name != 'whole' or numbers[1]):
          assert got == pytest.approx(result, 1e-5, 1e-6), (numbers, known)


@pytest.mark.parametrize('f', [
    lambda h, x: jnp.arctan2(h, x[:, :1]),
    lambda h, x: lax.reduce_window(h, 1., lax.add, (2, 1), (1, 1), 'VALID')])
def test_an_angle_and_windows_that_start_from_one_are_no_zeros_of_zeros(f):
  x = jax.ShapeDtypeStruct((5, 6), jnp.float32)
  p = {'in': jax.ShapeDtypeStruct((6, 8), jnp.float32)}
  read = tracing.read(lambda p, x: f(x @ p['in'], x).sum(1), p, x)
  assert axes.leaves(read.params['in'][1])[0].kept == 'reduce_sum over it'
