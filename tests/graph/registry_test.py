"""Primitives of one's own: followed once their wiring is told, and checked."""

import jax
from jax.extend import core
from jax.interpreters import mlir
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import graph
from jaxsparse.graph import registry
from jaxsparse.graph import tracing

RNG = np.random.default_rng(0)
PARAMS = {'first': jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32),
          'second': jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)}
X = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
  monkeypatch.setattr(registry, '_registered', {})


def primitive(name, fn):
  """A primitive of one operand, which does what a function does."""
  made = core.Primitive(name)
  made.def_impl(jax.jit(fn))
  made.def_abstract_eval(lambda x: x.update(shape=jax.eval_shape(
      fn, jax.ShapeDtypeStruct(x.shape, x.dtype)).shape))
  mlir.register_lowering(made, mlir.lower_fun(fn, multiple_results=False))
  return made


def network(made):
  return lambda p, x: made.bind(x @ p['first']) @ p['second']


def hidden(made):
  return jaxsparse.infer_ties(network(made), PARAMS, X).of('first', 1)[0]


def passed(eqn):
  rank = len(eqn.invars[0].aval.shape)
  return graph.Wiring([[((0, axis),) for axis in range(rank)]])


SOFTMAX = primitive('softmax_of_mine', lambda x: jax.nn.softmax(x, -1))
SORTED = primitive('sort_of_mine', lambda x: jnp.sort(x, -1))
DOUBLED = primitive('double_of_mine', lambda x: 2 * x)
SUMMED = primitive('sum_of_mine', lambda x: x.sum(-1, keepdims=True))


def test_units_are_fixed_until_a_wiring_is_told():
  assert hidden(SOFTMAX).fixed == 'softmax_of_mine'
  graph.register_primitive('softmax_of_mine', passed)
  tie = hidden(SOFTMAX)
  assert tie.free and [m.path for m in tie.members] == ['first', 'second']
  orders = {tie.name: jnp.array([5, 3, 1, 0, 2, 4])}
  moved = jaxsparse.permute(PARAMS, [tie], orders)
  fn = network(SOFTMAX)
  np.testing.assert_allclose(fn(moved, X), fn(PARAMS, X), atol=1e-6)


def test_a_second_wiring_replaces_the_first():
  graph.register_primitive(
      'double_of_mine', lambda eqn: passed(eqn)._replace(fixed=[(0, 1)]))
  assert hidden(DOUBLED).fixed == 'double_of_mine'
  graph.register_primitive('double_of_mine', passed)
  assert hidden(DOUBLED).free and hidden(DOUBLED).kept is None


def test_a_wiring_of_axes_that_vanish_keeps_products_known():
  graph.register_primitive('sum_of_mine', lambda eqn: graph.Wiring(
      [[((0, 0),), graph.New(uniform=True)]], gone=[((0, 1),)], kind='sum'))
  fn = lambda p, x: SUMMED.bind(x @ p['first'])
  tie, = jaxsparse.infer_ties(
      fn, {'first': PARAMS['first']}, X).of('first', 1)
  assert tie.free


def test_a_wiring_that_is_not_true_is_found_out():
  graph.register_primitive('sort_of_mine', passed)
  with pytest.raises(ValueError, match='(?s)first'):
    hidden(SORTED)


@pytest.mark.parametrize('wiring, match', [
    (graph.Wiring([[((0, 0),)]]), r"'softmax_of_mine' has \[1\] axes .*\[2\]"),
    (graph.Wiring([[((0, 0),), ((1, 1),)]]), 'axis 1 of operand 1, which does'),
    (graph.Wiring([[((0, 0),), ((0, 0),)]]), 'of size 5, to an axis of size 6'),
    (None, 'is None, expected a jaxsparse.graph.Wiring')])
def test_a_wiring_that_does_not_fit_is_a_taught_error(wiring, match):
  graph.register_primitive('softmax_of_mine', lambda eqn: wiring)
  with pytest.raises(ValueError, match=f'(?s){match}.*operands have'):
    hidden(SOFTMAX)


@pytest.mark.parametrize('name', [
    'dot_general', 'jit', 'custom_vjp_call', *tracing._SPECIAL])
def test_primitives_of_jax_are_not_replaced(name):
  with pytest.raises(ValueError, match=f"'{name}', a primitive of"):
    graph.register_primitive(name, passed)


def test_what_is_no_function_is_no_wiring():
  with pytest.raises(ValueError, match='must be a function from an equation'):
    graph.register_primitive('mine', graph.Wiring([[]]))
