"""Reading a function: what its parameters are multiplied with, and how."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.graph import tracing
from jaxsparse.graph.axes import find
from jaxsparse.graph.axes import leaves
from jaxsparse.graph.tracing import Product


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


X, W = array(5, 4), array(4, 6)


def product(contracted, outputs, window=()):
  return Product(*map(frozenset, (contracted, outputs, window)))


@pytest.mark.parametrize('change', [
    lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
    lambda w: w.T.reshape(3, 2, 4).reshape(6, 4).T,
    lambda w: jnp.where(jnp.abs(w) > 1, w, 0.),
    lambda w: w / jnp.linalg.norm(w),
    lambda w: jax.jit(lambda v: 2 * v)(w),
    lambda w: lax.cond(True, lambda v: v, lambda v: -v, w),
    lambda w: jax.checkpoint(jnp.tanh)(w),
    lambda w: lax.optimization_barrier(w)])
def test_what_is_done_to_a_parameter_alone_does_not_matter(change):
  read = tracing.read(lambda p, x: x @ change(p), W, X)
  assert read.products[''] == [product([0], [1])]
  assert read.others[''] == []


def test_what_a_parameter_meets_is_noted():
  def f(p, x):
    return (x * p['scale'][None]) @ p['kernel'] + p['bias'][None]
  read = tracing.read(
      f, {'bias': array(6), 'kernel': W, 'scale': array(4)}, X)
  assert read.products == {
      'bias': [], 'scale': [], 'kernel': [product([0], [1])]}
  assert read.others == {'bias': ['add'], 'kernel': [], 'scale': ['mul']}


def test_of_two_parameters_that_meet_the_larger_one_counts():
  read = tracing.read(
      lambda p, x: x @ (p['w'] * p['s'][None]), {'s': array(6), 'w': W}, X)
  assert read.products == {'s': [], 'w': [product([0], [1])]}


def test_joined_parameters_are_all_kernels():
  read = tracing.read(
      lambda p, x: x @ jnp.concatenate([p['a'], p['b']], 1),
      {'a': W, 'b': array(4, 2)}, X)
  assert set(map(tuple, read.products.values())) == {(product([0], [1]),)}


def test_layers_of_a_scan_are_neither_contracted_nor_outputs():
  def f(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p)[0]
  read = tracing.read(f, array(3, 4, 4), X)
  assert read.products[''] == [product([1], [2])]
  layers, *_ = read.params['']
  assert leaves(layers)[0].fixed == 'scan'


def test_a_carry_ties_what_goes_in_and_what_comes_out():
  def f(p, x):
    h, _ = lax.scan(
        lambda h, _: (jnp.tanh(h @ p['w']), None), x @ p['in'], None, length=3)
    return h @ p['out']
  read = tracing.read(
      f, {'in': W, 'out': array(6, 2), 'w': array(6, 6)}, X)
  at = read.params
  assert len({find(axis) for axis in (
      at['in'][1], *at['w'], at['out'][0])}) == 1


def test_what_starts_uniform_in_a_loop_may_not_stay_so():
  def f(p, x):
    start = jnp.zeros(6)
    h = lax.fori_loop(0, 3, lambda i, h: h + (x @ p['w'])[0], start)
    return h @ p['out']
  read = tracing.read(f, {'out': array(6, 2), 'w': W}, X)
  assert find(read.params['w'][1]) is find(read.params['out'][0])


def test_a_constant_that_varies_fixes_only_the_axis_along_which_it_does():
  constant = np.arange(6, dtype=np.float32)[None]
  varied = tracing.read(
      lambda p, x: (x @ p['w'] * constant) @ p['out'],
      {'out': array(6, 2), 'w': W}, X)
  alike = tracing.read(
      lambda p, x: (x @ p['w'] * np.ones((1, 6), np.float32)) @ p['out'],
      {'out': array(6, 2), 'w': W}, X)
  assert leaves(varied.params['out'][0])[0].fixed == (
      'a constant of the function')
  assert leaves(alike.params['out'][0])[0].fixed is None


@pytest.mark.parametrize('f, kept', [
    (lambda h: h, False),
    (jax.nn.gelu, False),
    (jax.nn.silu, False),
    (lambda h: h / jnp.sqrt(jnp.square(h).sum()), False),
    (lambda h: h - h.mean(), True),
    (lambda h: h / jnp.sqrt(jnp.square(h).mean()), True),
    (lambda h: h * h.shape[-1]**-.5, True),
    (jax.nn.softmax, True),
    (lambda h: h * jnp.exp(h).sum(), True),
    (lambda h: h + h.max(), True)])
def test_removal_is_safe_only_if_the_number_of_units_does_not_matter(f, kept):
  read = tracing.read(
      lambda p, x: f(x @ p['w']) @ p['out'], {'out': array(6, 2), 'w': W}, X)
  hidden, = leaves(read.params['out'][0])
  assert hidden.fixed is None
  # Which of the two a number is shows when a unit is removed.
  assert bool(hidden.kept or hidden.number) == kept


@pytest.mark.parametrize('scale, later, kept', [
    (16**-.5, 1., (True, False)),  # That of attention; 4^-1 as well.
    (8**-.5, 1., (False, False)),
    (1 / 4, 1 / 4, (True, True)),  # Heads are summed, and divided by.
    (16**-1, 1., (True, False))])
def test_the_root_of_dimensions_says_nothing_of_heads(scale, later, kept):
  def f(p, x):
    q = jnp.einsum('nd,dhk->nhk', x, p['q']) * scale
    return jnp.einsum('nhk,hkd->nd', q, p['out']) * later
  p = {'q': array(3, 4, 16), 'out': array(4, 16, 2)}
  read = tracing.read(f, p, array(5, 3))
  heads, dimensions = (leaves(axis)[0] for axis in read.params['q'][1:])
  assert (bool(dimensions.number), bool(heads.number)) == kept


def test_what_is_alike_is_not_after_a_sum_along_it():
  read = tracing.read(
      lambda p, x: (x @ p['w'] * jnp.cumsum(jnp.ones((1, 6)), 1)) @ p['out'],
      {'out': array(6, 2), 'w': W}, X)
  assert leaves(read.params['out'][0])[0].fixed == 'cumsum'


def test_indices_that_are_no_units_are_counted_and_the_same_of_any_units():
  def f(p, x):
    h = jnp.tanh(x @ p['in'])
    ones, rows = jnp.ones_like(h), jnp.arange(1. * h.shape[1])
    loop = lax.scan(lambda n, _: (n + 1., None), 0., rows)[0]
    return (h @ p['out'] + ones.sum() + loop + rows.max() + jnp.cumsum(
        ones, 1)[:, -1:] + ones.max() + h.sum())

  def counts(n):
    read = tracing.read(f, {'in': array(4, n), 'out': array(n, 3)}, X)
    return read.counts()
  expected = lambda n: [
      ('dot_general', 4), ('reduce_sum', 5), ('reduce_sum', n), ('scan', n),
      ('dot_general', 1), ('reduce_max', n), ('cumsum', n)]
  for n in (6, 9):
    assert {*expected(n)} <= {*counts(n)}
    assert ('reduce_max', 1) in counts(n)
  assert len(counts(6)) == len(counts(9))
