"""Wirings: every primitive that is followed does what is said of its axes."""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import primitives


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
