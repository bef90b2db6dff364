"""The walk keeps what an interpreter says, and goes into calls."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import _jaxprs
from jaxsparse.graph import _walk


class Runs:
  """The interpreter of arrays, which notes equations on the way."""

  def __init__(self):
    self.names = []

  def constant(self, x, aval):
    del aval
    return x

  def primitive(self, jaxpr, eqn, values):
    self.names.append(eqn.primitive.name)
    return _jaxprs.run_alone(jaxpr, eqn, values)


@jax.custom_jvp
def _jvp(x):
  return jnp.sin(x)


@jax.custom_vjp
def _vjp(x):
  return jnp.sin(x)


_jvp.defjvp(lambda xs, ts: (_jvp(*xs), ts[0]))
_vjp.defvjp(lambda x: (x, None), lambda _, g: (g,))
TABLE = np.arange(3, dtype=np.float32)


@pytest.mark.parametrize('call', [
    lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f)),
    lambda f: lambda x: _jvp(f(x)), lambda f: lambda x: _vjp(f(x))])
def test_results_are_those_of_the_function_whatever_it_calls(call):
  f = call(lambda x: jnp.cos(x * 2.) + TABLE)
  x = jnp.linspace(0., 1., 3)
  runs = Runs()
  (got,) = _walk.walk(runs, jax.make_jaxpr(f)(x), [x])
  np.testing.assert_allclose(got, f(x), rtol=1e-6)
  assert not {*runs.names} & {*_walk.CALLS} and 'cos' in runs.names


def test_control_flow_is_one_equation():
  f = lambda x: lax.fori_loop(0, 3, lambda i, x: jnp.sin(x), x)
  runs = Runs()
  _walk.walk(runs, jax.make_jaxpr(f)(1.), [1.])
  assert runs.names in (['while'], ['scan'])


def test_results_may_be_operands_and_literals():
  closed = jax.make_jaxpr(lambda x, y: (y, 1., x))(2., 3.)
  assert _walk.walk(Runs(), closed, [2., 3.]) == [3., 1., 2.]


def test_a_step_is_one_equation_calls_included():
  closed = jax.make_jaxpr(lambda x: jax.jit(jnp.cos)(x))(1.)
  eqn, = closed.jaxpr.eqns
  runs = Runs()
  np.testing.assert_allclose(
      _walk.step(runs, closed.jaxpr, eqn, [jnp.float32(0.)]), [1.])
  assert runs.names == ['cos'] and eqn.primitive.name in _walk.CALLS
