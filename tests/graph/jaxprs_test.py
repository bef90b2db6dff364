"""What is read of a function: neither dead code nor what only prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import units
from jaxsparse.graph import _jaxprs

PARAMS = {'w1': jnp.ones((8, 6)), 'b1': jnp.ones(6), 'w2': jnp.ones((6, 4))}
X = jnp.linspace(-1., 1., 40).reshape(5, 8)


def _network(aside):
  """A hidden layer, and something that is done with it beside."""
  def fn(params, x):
    hidden = jax.nn.relu(x @ params['w1'] + params['b1'][None])
    aside(hidden)
    return hidden @ params['w2']
  return fn


def _in_scan(hidden):
  def turn(carry, row):
    jax.debug.print('{}', row[0])
    return carry, None
  jax.lax.scan(turn, 0, hidden)


def _in_cond(hidden):
  jax.lax.cond(hidden[0, 0] > 0, lambda h: jax.debug.print('{}', h.max()),
               lambda h: None, hidden)


_ASIDE = {
    'nothing': lambda hidden: None,
    'dead': lambda hidden: jnp.ones_like(hidden[..., 0]) * hidden.max(),
    'print': lambda hidden: jax.debug.print('{}', hidden.max()),
    'text': lambda hidden: jax.debug.print('hidden'),
    'callback': lambda hidden: jax.debug.callback(lambda h: None, hidden[0]),
    'print in jit': jax.jit(lambda h: jax.debug.print('{}', h[0, 0])),
    'print in scan': _in_scan,
    'print in cond': _in_cond,
    'a dead draw': lambda hidden: jax.random.normal(
        jax.random.key(0), hidden.shape[:1]) * hidden[:, 0],
}


@pytest.mark.parametrize('aside', _ASIDE)
def test_hidden_units_are_free_whatever_is_done_beside(aside):
  fn = _network(_ASIDE[aside])
  tie = jaxsparse.infer_ties(fn, PARAMS, X).of('b1', 0)[0]
  assert (tie.size, tie.fixed, tie.kept) == (6, None, None)
  assert len(tie.members) == 3


@pytest.mark.parametrize('aside', _ASIDE)
def test_constants_are_folded_and_products_counted_all_the_same(aside):
  fn, plain = _network(_ASIDE[aside]), _network(_ASIDE['nothing'])
  # A bias at the end takes what the dead unit has given.
  params = {**PARAMS, 'w1': PARAMS['w1'].at[:, 2].set(0.), 'b2': jnp.ones(4)}
  biased = lambda fn: lambda p, x: fn(p, x) + p['b2'][None]
  ties = jaxsparse.infer_ties(biased(plain), params, X)
  folded = units.fold_constants(biased(fn), params, ties, X)
  expected = units.fold_constants(biased(plain), params, ties, X)
  assert folded.folded == expected.folded
  for name, w in folded.params.items():
    np.testing.assert_array_equal(w, expected.params[name])
  assert jaxsparse.flops(fn, PARAMS, X) == jaxsparse.flops(plain, PARAMS, X)


def test_what_a_scan_carries_but_nobody_reads_is_dead():
  def fn(params, xs):
    def turn(carry, x):
      return carry + (x @ params['w2']).sum(), x @ params['w1']
    return jax.lax.scan(turn, 0., xs)[1]
  params = {'w1': jnp.ones((8, 6)), 'w2': jnp.ones((8, 3))}
  xs = jnp.ones((2, 4, 8))
  counted = jaxsparse.flops(fn, params, xs)
  assert counted.by_parameter == {'w1': 2 * 2 * 4 * 8 * 6, 'w2': 0}


def test_a_dead_product_costs_nothing_and_a_result_does():
  fn = lambda p, x: (x @ p['w1'], x.T @ x)
  dead = lambda p, x: fn(p, x)[0]
  assert jaxsparse.flops(fn, {'w1': PARAMS['w1']}, X).other == 2 * 8 * 8 * 5
  assert jaxsparse.flops(dead, {'w1': PARAMS['w1']}, X).other == 0


def test_sizes_of_a_scan_tell_constants_and_carries_from_slices():
  def fn(params, xs):
    def turn(carry, x):
      return (carry[0] + x @ params['w1'], carry[1] + 1.), x.sum()
    return jax.lax.scan(turn, (jnp.zeros(6), 0.), xs)
  closed, paths = _jaxprs.trace(fn, {'w1': PARAMS['w1']}, X)
  scan, = [e for e in closed.jaxpr.eqns if e.primitive.name == 'scan']
  assert _jaxprs.ScanSizes.of(scan) == (1, 2) and paths == ['w1']


def test_effects_other_than_prints_stay():
  """Writes to a reference are what such a function is for."""
  def fn(params, x):
    ref = jax.new_ref(jnp.zeros((5, 6)))
    ref[...] = x @ params['w1']
    return ref[...]
  closed, _ = _jaxprs.trace(fn, {'w1': PARAMS['w1']}, X)
  assert any(e.primitive.name == 'dot_general' for e in closed.jaxpr.eqns)


_TAKES = {'w': jnp.ones((4, 3))}


@pytest.mark.parametrize('fn, inputs, told', [
    (lambda p, x: x @ p['w'], [jnp.ones((2, 5))],
     r'inputs float32\[2, 5\]: TypeError: dot_general requires'),
    (lambda p, x: x @ p['w'], [], 'inputs none: TypeError: .* missing 1'),
    (lambda p, x: x @ p['W'], [jnp.ones((2, 4))], "KeyError: 'W'"),
    (lambda p, x: 'text', [jnp.ones(2)], 'not a valid JAX type'),
    (lambda p, x: float(x.sum()), [jnp.ones(2)], 'ConcretizationTypeError')])
@pytest.mark.parametrize('read', [
    jaxsparse.infer_ties, jaxsparse.flops,
    lambda *args: jaxsparse.kernel_patterns(
        *args, pattern=jaxsparse.nm(2, 4))])
def test_what_cannot_be_traced_is_told_with_what_to_give(
    read, fn, inputs, told):
  with pytest.raises(ValueError, match=f'(?s)cannot be traced with .*{told}'
                     '.*Give the params and inputs that it takes') as raised:
    read(fn, _TAKES, *inputs)
  assert raised.value.__cause__ is not None
