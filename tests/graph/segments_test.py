"""Chains of segments against the function itself, whatever it is made of."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import infer_kernels
from jaxsparse.graph import segments
from jaxsparse.graph import taps
from jaxsparse.graph.segments import Leaf
from tests._lib import zoo

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def squares(product):
  return (product.rows.astype(jnp.float32)**2).sum()


def walked(fn, params, *inputs, kernels):
  """The chain, and what is seen of each leaf on the way through it."""
  chain = segments.chain(fn, params, *inputs, kernels=kernels)
  data, found = chain.start(*inputs), {}
  leaves = jax.tree.leaves(params)
  for segment in chain.segments:
    sums = segment.measured.tapped(
        chain.values(segment.measured_reads, leaves, data), squares)
    for number, value in sums.items():
      assert segment.leaves[number] not in found
      found[segment.leaves[number]] = value
    data = dict(zip(segment.gives, segment.rest.run(
        chain.values(segment.reads, leaves, data)), strict=True))
  return chain, found


def assert_same(fn, params, *inputs, kernels):
  chain, found = walked(fn, params, *inputs, kernels=kernels)
  expected = taps.run(fn, params, *inputs, tap=squares)
  for path in kernels:
    got = [found[leaf] for leaf in sorted(found) if leaf.path == path]
    np.testing.assert_allclose(
        np.ravel(jnp.stack(got)), np.ravel(expected[path]), rtol=1e-5)
  return [sorted({leaf.path for leaf in segment.kernels})
          for segment in chain.segments]


X = array(5, 4)
SQUARE = {name: array(4, 4) for name in 'abc'}


@pytest.mark.parametrize('fn, stages', [
    (lambda p, x: jnp.tanh(x @ p['a']) @ p['b'] @ p['c'], ['a', 'b', 'c']),
    (lambda p, x: jnp.tanh(x @ p['a'] * (x @ p['b'])) @ p['c'], ['ab', 'c']),
    (lambda p, x: x @ p['a'] + jnp.sin(x) @ p['b'] + x @ p['c'], ['abc']),
    # Read again later, and all in between with it.
    (lambda p, x: jnp.sin(x @ p['a'] @ p['b'] @ p['a']) @ p['c'], ['ab', 'c']),
    (lambda p, x: jax.jit(lambda x: x @ p['a'] @ p['b'])(x) @ p['c'],
     ['a', 'b', 'c']),
    (lambda p, x: lax.cond(x.sum() > 0, lambda x: x @ p['a'] @ p['b'],
                           lambda x: x, x) @ p['c'], ['ab', 'c']),
    (lambda p, x: lax.fori_loop(
        0, 3, lambda _, x: jnp.sin(x @ p['a']), x @ p['b']) @ p['c'],
     ['b', 'a', 'c']),
    (lambda p, x: x @ p['a'].T.astype(jnp.bfloat16).astype(jnp.float32) @ (
        2. * p['b']) @ p['c'], ['a', 'b', 'c']),
])
def test_a_stage_has_what_reads_nothing_of_its_own(fn, stages):
  assert assert_same(fn, SQUARE, X, kernels=[*'abc']) == list(
      map(list, stages))


def turn(x, p):
  return jnp.sin(x @ p['a']) @ p['b'], x[0]


LAYERS = {'a': array(3, 4, 4), 'b': array(3, 4, 4), 'c': array(4, 4)}


@pytest.mark.parametrize('settings', [
    {}, {'reverse': True}, {'unroll': 3}], ids=['', 'reverse', 'unroll'])
@pytest.mark.parametrize('wrap', [lambda f: f, jax.checkpoint, jax.jit])
def test_layers_are_segments_of_one_program(settings, wrap):
  def fn(p, x):
    x, ys = lax.scan(wrap(turn), x, {k: p[k] for k in 'ab'}, **settings)
    return (x + ys.sum(0, keepdims=True)) @ p['c']
  chain, _ = walked(fn, LAYERS, X, kernels=[*'abc'])
  assert_same(fn, LAYERS, X, kernels=[*'abc'])
  order = [2, 1, 0] if 'reverse' in settings else [0, 1, 2]
  assert [s.kernels for s in chain.segments] == [
      (Leaf(name, ((0, k),)),) for k in order for name in 'ab'] + [
          (Leaf('c'),)]
  assert len({s.measured for s in chain.segments}) <= 3


def test_a_scan_over_data_is_one_step():
  def fn(p, x):
    h, _ = lax.scan(lambda h, x: (jnp.tanh(h @ p['a'] + x @ p['b']), ()),
                    jnp.zeros(4), x)
    return h @ p['c']
  assert assert_same(fn, SQUARE, X, kernels=[*'abc']) == [['a', 'b'], ['c']]


def test_layers_in_layers():
  def fn(p, x):
    def outer(x, ws):
      return lax.scan(lambda x, w: (jnp.sin(x @ w), ()), x, ws)
    return lax.scan(outer, x, p['w'])[0]
  chain, found = walked(fn, {'w': array(2, 3, 4, 4)}, X, kernels=['w'])
  assert [s.kernels[0].index for s in chain.segments] == [
      ((0, i), (1, j)) for i in range(2) for j in range(3)]
  assert len({s.rest for s in chain.segments[1:-1]}) == 1 and len(found) == 6


def test_programs_of_blocks_that_are_alike_are_one():
  def fn(p, x):
    for layer in p:
      x = x + jax.nn.gelu(jax.nn.relu(x @ layer['up'])) @ layer['down']
    return x
  params = [{'up': array(4, 8), 'down': array(8, 4)} for _ in range(4)]
  kernels = [f'{i}/{name}' for i in range(4) for name in ('up', 'down')]
  chain, _ = walked(fn, params, X, kernels=kernels)
  assert len(chain.segments) == 8
  # Of the middle, and the ends.
  assert len({s.rest for s in chain.segments}) <= 5
  assert_same(fn, params, X, kernels=kernels)


def test_cuts_are_where_least_is_alive():
  """Not where the wide activations are."""
  def fn(p, x):
    wide = jnp.tile(x @ p['a'], (1, 50))
    return jnp.sin(wide).sum(1, keepdims=True) * x @ p['b']
  chain, _ = walked(fn, SQUARE, X, kernels=['a', 'b'])
  first = chain.segments[0]
  assert len(first.gives) <= 2
  data = dict(zip(first.gives, first.rest.run(chain.values(
      first.reads, jax.tree.leaves(SQUARE), chain.start(X)))))
  assert sum(x.size for x in data.values()) <= X.size + len(X)


def test_nothing_is_computed_that_no_later_kernel_needs():
  fn = lambda p, x: (x @ p['a'], jnp.sin(x) @ p['b'] @ p['c'])
  chain, _ = walked(fn, SQUARE, X, kernels=['a'])
  assert len(chain.segments) == 1 and chain.segments[0].gives == ()


def test_consts_and_keys():
  noise = jnp.asarray(array(5, 4))

  def fn(p, x):
    key = jax.random.wrap_key_data(p['key'])
    x = x @ p['a'] + noise + jax.random.normal(key, (5, 4))
    return x @ p['b']
  params = {**SQUARE, 'key': jax.random.key_data(jax.random.key(0))}
  assert assert_same(fn, params, X, kernels=['a', 'b']) == [['a'], ['b']]


# All of the zoo and of the odd functions were run by hand; here some of them.
@pytest.mark.parametrize(
    'build', zoo.CASES[::6], ids=lambda build: build.__name__)
def test_models_in_segments_are_the_models(build):
  case = build()
  kernels = [path for path, kernel in infer_kernels(
      case.fn, case.params, *case.inputs).items() if kernel.contracted]
  chain = segments.chain(case.fn, case.params, *case.inputs, kernels=kernels,
                         outputs=True)
  leaves = jax.tree.leaves(case.params)

  @jax.jit
  def through(leaves, *inputs):
    data = chain.start(*inputs)
    for segment in chain.segments:
      data = dict(zip(segment.gives, segment.rest.run(
          chain.values(segment.reads, leaves, data))))
    return [*data.values()]
  out, = through(leaves, *case.inputs)
  np.testing.assert_allclose(
      out, jax.jit(case.fn)(case.params, *case.inputs), rtol=1e-4, atol=1e-5)
