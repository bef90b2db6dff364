"""Removal that is tried: what changes with the number of units, and fails."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.units import heads
from jaxsparse.units import neurons
from tests._lib.zoo_case import weights


def _attention(head_mean):
  """Eight heads of 64: 0.125 is 64^-0.5, and it is 8^-1."""
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=(16, 8, 64)).astype(np.float32)
            for name in ('query', 'key', 'value')}
  params['out'] = rng.normal(
      size=(64, 4) if head_mean else (8, 64, 4)).astype(np.float32)

  def apply(params, x):
    q, k, v = (jnp.einsum('td,dhe->the', x, params[name])
               for name in ('query', 'key', 'value'))
    y = jnp.einsum('hts,she->the', jax.nn.softmax(
        jnp.einsum('the,she->hts', q, k) * q.shape[-1]**-.5, axis=-1), v)
    if head_mean:
      return jnp.einsum('the,eo->to', y * (1 / y.shape[1]), params['out'])
    return jnp.einsum('the,heo->to', y, params['out'])
  return apply, params, rng.normal(size=(5, 16)).astype(np.float32)


def test_a_number_of_two_origins_is_tried_out():
  apply, params, x = _attention(head_mean=False)
  (heads,), (dims,) = ([t for t in jaxsparse.infer_ties(apply, params, x).of(
      'query', axis) if not t.fixed] for axis in (1, 2))
  assert (heads.size, heads.kept) == (8, None)
  assert dims.kept == 'mul by 0.125, which becomes 0.126'
  # From shapes alone it is seen, too.
  shapes = jax.eval_shape(lambda: (params, x))
  assert jaxsparse.infer_ties(apply, *shapes) == jaxsparse.infer_ties(
      apply, params, x)


def test_a_mean_over_heads_keeps_them_whatever_else_the_number_is():
  apply, params, x = _attention(head_mean=True)
  heads, = jaxsparse.infer_ties(apply, params, x).of('query', 1)
  assert heads.kept


def test_units_that_are_parts_of_other_axes_are_kept():
  """And keys among the parameters are left in peace."""
  rng = np.random.default_rng(0)
  params = {'qkv': rng.normal(size=(8, 3, 2, 4)).astype(np.float32),
            'out': rng.normal(size=(2, 4, 8)).astype(np.float32),
            'rngs': jax.random.key(0)}

  def apply(params, x):
    q, k, v = (jnp.einsum('td,dhe->the', x, params['qkv'][:, i])
               for i in range(3))
    # 4^-0.5, and it is 2^-1.
    logits = jnp.einsum('the,she->hts', q, k) * q.shape[-1]**-.5
    y = jnp.einsum('hts,she->the', jax.nn.softmax(logits, axis=-1), v)
    return jnp.einsum('the,hed->td', y, params['out'])
  x = rng.normal(size=(3, 8)).astype(np.float32)
  ties = jaxsparse.infer_ties(apply, params, x)
  parts = [tie.kept for tie in ties.free if len(tie.along)]
  assert len(parts) == 2
  assert all('is a part of other axes' in kept for kept in parts)


def _hidden(f, n, *, check=True):
  """The tie of `n` hidden units with a function around them."""
  p = weights({'in': (4, n), 'out': (n, 3)})
  ties = jaxsparse.infer_ties(
      lambda p, x: f(x @ p['in']) @ p['out'], p, np.ones((2, 4), np.float32),
      check=check)
  tie, = ties.of('in', 1)
  return tie


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('f, n', [
    (jax.nn.leaky_relu, 100), (jax.nn.gelu, 16), (jax.nn.hard_swish, 6),
    (lambda h: .5 * jax.nn.silu(h) * .5, 256),
    (lambda h: h / 4., 16), (lambda h: h * 3**-.5, 9)])
def test_a_number_that_only_looks_like_a_size_keeps_nothing(f, n, check):
  assert _hidden(f, n, check=check).kept is None


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('f', [
    lambda h: h * h.shape[-1]**-.5, lambda h: h * (32 / h.shape[-1]),
    lambda h: h * np.sqrt(2 / h.shape[-1]).item(),
    lambda h: h / (3 * h.shape[-1])**.5,
    lambda h: h * jnp.full(h.shape, 1 / h.shape[-1])])
@pytest.mark.parametrize('n', [16, 20])
def test_a_number_that_comes_from_a_size_keeps_units(f, n, check):
  assert 'which becomes' in _hidden(f, n, check=check).kept


def normed(h):
  """As `nnx.RMSNorm` does with a mask."""
  mask = jnp.broadcast_to(h[:, :1] * 0 == 0, h.shape)
  mean = jnp.mean(h * h, -1, keepdims=True, where=mask)
  return h * jax.lax.rsqrt(mean + 1e-6)


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('f', [
    normed, lambda h: h - h.mean(-1, keepdims=True, where=jnp.ones_like(
        h, bool)),
    lambda h: h / jnp.ones_like(h).sum(),
    lambda h: h / jax.jit(lambda: jnp.ones(h.shape[-1]).sum())(),
    lambda h: h / jnp.dot(jnp.ones(h.shape[-1]), jnp.ones(h.shape[-1])),
    lambda h: h / jnp.cumsum(jnp.ones(h.shape[-1]))[-1],
    lambda h: h / jnp.arange(1., h.shape[-1] + 1).max(),
    lambda h: h / jnp.arange(1., h.shape[-1] + 1)[-1:],
    lambda h: h / jnp.trace(jnp.eye(h.shape[-1])),
    lambda h: h / jnp.prod(jnp.full(h.shape[-1], 1.1)),
    lambda h: h / jnp.zeros(1).at[jnp.zeros(h.shape[-1], int)].add(1.),
    lambda h: h / jax.lax.fori_loop(0, h.shape[-1], lambda i, n: n + 1., 0.),
    lambda h: h / jnp.concatenate([jnp.ones(h.shape[-1]), jnp.ones(2)]).sum(),
    lambda h: h / (h[0, 0] * 0 + 2.)**h.shape[-1]])
def test_a_count_of_units_without_any_number_keeps_them(f, check):
  with jax.numpy_rank_promotion('allow'):
    assert _hidden(f, 8, check=check).kept


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('f', [
    lambda h: jnp.where(
        jnp.broadcast_to(h[:, :1] * 0 == 0, h.shape).any(1)[:, None], h, 0.),
    lambda h: h * jnp.full(h.shape, 3.).max(-1, keepdims=True),
    lambda h: h * jnp.ones((h.shape[0], 3)).sum(-1, keepdims=True)])
def test_what_is_the_same_of_any_count_keeps_nothing(f, check):
  assert _hidden(f, 8, check=check).kept is None


def test_a_mean_over_heads_of_a_mask_keeps_heads_and_not_their_dimensions():
  p = weights({'in': (6, 4, 5), 'out': (5, 3)})

  def apply(p, x):
    h = jnp.einsum('nd,dhk->nhk', x, p['in'])
    return jnp.mean(h, 1, where=jnp.ones((len(x), 1, 1), bool)) @ p['out']
  x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
  for check in (True, False):
    ties = jaxsparse.infer_ties(apply, p, x, check=check)
    assert ties.of('in', 1)[0].kept and not ties.of('in', 2)[0].kept


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('f', [
    lambda h: h / (h.shape[-1] // 8), lambda h: h / int(h.shape[-1]**.5),
    lambda h: h if h.shape[-1] > 16 else 2 * h])
def test_a_whole_number_that_changes_with_half_of_the_units_keeps_them(
    f, check):
  assert _hidden(f, 20, check=check).kept


@pytest.mark.parametrize('check', [True, False])
def test_what_does_not_take_half_of_the_units_is_tried_with_one_less(check):
  def wide(h):
    if h.shape[-1] < 12:
      raise ValueError('too narrow')
    return jnp.tanh(h)
  tie = _hidden(wide, 20, check=check)
  assert tie.kept is None and tie.untried is None


@pytest.mark.parametrize('x, scale', [
    (np.ones((5, 16), np.float32), lambda d: d**-.5),
    (np.ones((5, 16), np.float32), lambda d: 3 / d),
    (np.zeros(5, int), lambda d: 3 / d),
    # Of one token no logits matter; but that number is known.
    (np.ones((1, 16), np.float32), lambda d: d**-.5)])
def test_inputs_that_hide_a_scale_prove_nothing(x, scale):
  rng = np.random.default_rng(0)
  p = {name: rng.normal(size=(16, 8)).astype(np.float32) for name in 'qkvo'}
  p |= {'o': p['o'].T, 'table': rng.normal(size=(16, 16)).astype(np.float32)}

  def apply(p, x):
    x = p['table'][x] if x.ndim == 1 else x
    q, k, v = (x @ p[name] for name in 'qkv')
    return jax.nn.softmax(q @ k.T * scale(q.shape[-1])) @ v @ p['o']
  dims, = jaxsparse.infer_ties(apply, p, x).of('q', 1)
  assert 'which becomes' in dims.kept


def test_a_number_that_makes_no_difference_keeps_nothing_if_it_can_be_run():
  def normed(h):
    h = h * (32 / h.shape[-1])
    return h / jnp.sqrt(jnp.square(h).sum(-1, keepdims=True))
  assert _hidden(normed, 8).kept is None
  assert _hidden(normed, 8, check=False).kept


def test_sizes_in_the_code_are_told_though_the_function_runs():
  """Two of the three dimensions of six heads are four heads of three."""
  p = weights({'q': (8, 18), 'k': (8, 18), 'v': (8, 6)})

  def apply(p, x):
    q, k = (jnp.reshape(x @ p[name], (5, -1, 3)) for name in 'qk')
    shares = jax.nn.softmax(jnp.einsum('thd,shd->hts', q, k))
    return shares.sum(0) @ (x @ p['v'])
  x = np.ones((5, 8), np.float32)
  for check in (True, False):
    dims, = (t for t in jaxsparse.infer_ties(apply, p, x, check=check).of(
        'q', 1) if t.size == 3)
    assert dims.kept == 'sizes of its own'


@pytest.mark.parametrize('check', [True, False])
def test_halves_of_a_size_in_the_code_are_told_though_the_function_runs(check):
  def apply(p, x):
    h = x @ p['in']
    return jnp.concatenate([jnp.tanh(h[:, :4]), h[:, 4:]], -1) @ p['out']
  params = weights({'in': (5, 8), 'out': (8, 3)})
  ties = jaxsparse.infer_ties(
      apply, params, np.ones((2, 5), np.float32), check=check)
  assert [t.kept for t in ties.free] == ['sizes of its own'] * 2


@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('out, apply', [
    ({'out': (8, 3)}, lambda p, a, b: jnp.concatenate([a, b], -1) @ p['out']),
    ({'a': (4, 3), 'b': (4, 3)}, lambda p, a, b: a @ p['a'] + b @ p['b'])])
def test_halves_of_any_size_must_be_as_long_as_each_other(out, apply, check):
  def fn(p, x):
    a, b = jnp.split(x @ p['in'], 2, -1)
    return apply(p, jnp.tanh(a), jax.nn.relu(b))
  x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
  first, second = jaxsparse.infer_ties(
      fn, weights({'in': (5, 8), **out}), x, check=check).free
  assert first.kept == f'must lose as many units as {second.name}'
  assert second.kept == f'must lose as many units as {first.name}'


def test_parts_of_an_axis_that_end_where_another_array_says_are_no_halves():
  def fn(p, x):
    h, n = x @ p['in'], p['bias'].shape[0]
    a, b = jnp.tanh(h[:, :n] + p['bias'][None]), jax.nn.relu(h[:, n:])
    return jnp.concatenate([a, b], -1) @ p['out']
  params = weights({'in': (5, 8), 'bias': (4,), 'out': (8, 3)})
  x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
  ties = jaxsparse.infer_ties(fn, params, x)
  first, second = ties.free
  assert (first.kept, second.kept) == (None, None)
  keep = {first.name: np.arange(4) < 3, second.name: np.arange(4) % 2 < 1}
  whole = np.concatenate([keep[tie.name] for tie in sorted(
      ties.free, key=lambda tie: tie.members[-1].start)])
  params['out'] = jnp.where(whole[:, None], params['out'], 0.)
  np.testing.assert_allclose(
      fn(jaxsparse.slim(params, ties, keep), x), fn(params, x), rtol=1e-5)


def test_what_does_not_take_smaller_arrays_is_not_tried():
  class MLP(nn.Module):

    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Dense(16)(x))
      return nn.Dense(3)(x)
  x = jnp.ones((2, 4))
  params = MLP().init(jax.random.key(0), x)
  ties = jaxsparse.infer_ties(MLP().apply, params, x)
  tie, = ties.of('params/Dense_0/kernel', 1)
  assert tie.kept is None
  assert tie.untried.startswith('ScopeParamShapeError: ')
  assert 'yes, not tried' in str(ties)
  assert '\nnot tried: with smaller arrays, ScopeParamShapeError' in str(ties)
  small = jaxsparse.slim(params, ties, {tie.name: np.arange(16) < 8})
  assert small['params']['Dense_0']['kernel'].shape == (4, 8)
  assert small['params']['Dense_1']['kernel'].shape == (8, 3)


def test_groups_of_a_group_norm_are_no_heads():
  p = weights({'in': (4, 16), 'scale': (16,), 'bias': (16,), 'out': (16, 3)})

  def apply(p, x):
    normed = nn.GroupNorm(8).apply(
        {'params': {'scale': p['scale'], 'bias': p['bias']}}, x @ p['in'])
    return jnp.tanh(normed) @ p['out']
  x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  for check in (True, False):
    ties = jaxsparse.infer_ties(apply, p, x, check=check)
    assert not heads(ties).ties and not neurons(ties).ties
    groups, = (t for t in ties.of('in', 1) if t.size == 8)
    assert groups.kept


def test_a_function_that_is_fine_is_traced_twice_more_and_not_compiled_again():
  p = weights({f'{i}': (8, 8) for i in range(6)})
  traced = []

  def apply(p, x):
    traced.append(1)
    for w in p.values():
      x = jax.nn.gelu(x @ w)
    return x
  run = jax.jit(apply)
  jaxsparse.infer_ties(run, p, np.ones((2, 8), np.float32))
  assert len(traced) <= 5


def test_ties_of_one_size_are_told_apart():
  def apply(p, x):
    x = jax.nn.relu(x @ p['a'])
    x = jax.nn.relu(x @ p['b'])
    return x * (32 / x.shape[-1]) @ p['c']
  p = weights({'a': (4, 16), 'b': (16, 16), 'c': (16, 3)})
  ties = jaxsparse.infer_ties(apply, p, np.ones((2, 4), np.float32))
  (first,), (second,) = ties.of('a', 1), ties.of('c', 0)
  assert first.kept is None and 'which becomes' in second.kept


@pytest.mark.parametrize('call', [lambda f: f, jax.jit])
def test_an_array_closed_over_that_has_the_units_is_told(call):
  bias = jnp.ones((1, 6))

  @call
  def hidden(w, x):
    return jnp.tanh(x @ w + bias)
  p = weights({'w': (4, 6), 'v': (6, 5), 'u': (5, 3)})
  fn = lambda p, x: jnp.tanh(hidden(p['w'], x) @ p['v']) @ p['u']
  ties = jaxsparse.infer_ties(fn, p, np.ones((2, 4), np.float32))
  tie, = ties.of('v', 0)
  assert tie.free and tie.untried == (
      'an array of shape (1, 6) that is closed over has an axis of these units '
      'and would have to be cut, too: make it a parameter')
  assert 'not tried: with smaller arrays, an array of shape (1, 6)' in str(ties)
  other, = ties.of('u', 0)
  assert other.free and not other.kept and not other.untried
  given = jaxsparse.infer_ties(
      lambda p, x: jnp.tanh(x @ p['w'] + p['b']) @ p['v'] @ p['u'],
      {**p, 'b': bias}, np.ones((2, 4), np.float32))
  assert not given.of('v', 0)[0].untried
