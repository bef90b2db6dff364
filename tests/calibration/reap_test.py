"""What experts add, against gates and outputs in numpy."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from jaxsparse import calibration
from jaxsparse import units

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
EXPERTS, WIDTH = 4, 8


def array(*shape):
  return (RNG.normal(size=shape) / 2).astype(np.float32)


def layer():
  return {'router': array(WIDTH, EXPERTS), 'up': array(EXPERTS, WIDTH, 6),
          'down': array(EXPERTS, 6, WIDTH), 'bias': array(EXPERTS, WIDTH)}


def chosen(p, x):
  """Weights `[t, k]` of the best two, and who they are, `[t, k, experts]`."""
  top, which = jax.lax.top_k(x @ p['router'], 2)
  return jax.nn.softmax(top), jax.nn.one_hot(
      which, p['router'].shape[1], dtype=x.dtype)


def gates(p, x):
  return jnp.einsum('tk,tke->te', *chosen(p, x))


def hidden(p, x):
  return jax.nn.relu(jnp.einsum('td,edf->tef', x, p['up']))


def products(p, x):
  return jnp.einsum('tef,efd->ted', hidden(p, x), p['down'])


def outputs(p, x):
  return products(p, x) + p['bias'][None]


def numbers(p, x):
  """Gates and outputs, in numpy."""
  p, x = jax.tree.map(lambda w: np.asarray(w, np.float64), (p, x))
  logits = x @ p['router']
  is_chosen = logits >= np.sort(logits)[:, -2:-1]
  exps = np.exp(logits) * is_chosen
  h = np.maximum(np.einsum('td,edf->tef', x, p['up']), 0)
  return (exps / exps.sum(1, keepdims=True),
          np.einsum('tef,efd->ted', h, p['down']))


def mean_norms(pairs, bias=0., weights=1.):
  """The definition, over pairs of gates and outputs."""
  total, count = 0., 0.
  for g, y in pairs:
    share = weights * (g > 0)
    total += (g * np.linalg.norm(y + bias, axis=-1) * share).sum(0)
    count += share.sum(0)
  return total / np.maximum(count, 1)


def measured(fn, params, batches, **more):
  ties = units.experts(units.infer_ties(fn, params, batches[0]))
  return calibration.reap(fn, params, batches, ties, **more), ties


def weighted(p, x):
  return jnp.einsum('te,ted->td', gates(p, x), outputs(p, x))


def chosen_before_weighted(p, x):
  g, who = chosen(p, x)
  return jnp.einsum('tk,tkd->td', g, jnp.einsum('tke,ted->tkd', who, outputs(
      p, x)))


def looked_up(p, x):
  top, which = jax.lax.top_k(x @ p['router'], 2)
  y = jnp.take_along_axis(outputs(p, x), which[..., None], 1)
  return (y * jax.nn.softmax(top)[..., None]).sum(1)


def multiplied_and_summed(p, x):
  return (gates(p, x)[..., None] * outputs(p, x)).sum(1)


def divided_afterwards(p, x):
  g = jnp.exp(x @ p['router']) * (gates(p, x) > 0).astype(jnp.float32)
  y = jnp.einsum('te,ted->td', g, outputs(p, x))
  return (y / g.sum(1, keepdims=True)).reshape(-1, 1, WIDTH)[:, 0]


def each_by_vmap(p, x):
  one = lambda up, down, b: jax.nn.relu(x @ up) @ down + b[None]
  y = jax.vmap(one)(p['up'], p['down'], p['bias'])
  return jnp.einsum('te,etd->td', gates(p, x), y)


def under_a_norm(p, x):
  y = weighted(p, x)
  return y * jax.lax.rsqrt((y * y).mean(1, keepdims=True))


def projected(p, x):
  return weighted(p, x) @ p['bias'].T @ p['bias']


P, X = layer(), [array(12, WIDTH), array(7, WIDTH)]
WAYS = [weighted, chosen_before_weighted, looked_up, multiplied_and_summed,
        divided_afterwards, each_by_vmap, under_a_norm]


@pytest.mark.parametrize('way', WAYS, ids=lambda f: f.__name__)
def test_norms_of_outputs_are_weighed_by_the_router(way):
  found, (tie,) = measured(lambda p, x: x + way(p, x), P, X)
  assert found[tie.name].dtype == np.float32
  np.testing.assert_allclose(found[tie.name], mean_norms(
      [numbers(P, x) for x in X], P['bias']), rtol=1e-5)


def sums_over_experts_and_hidden_units(p, x):
  h = hidden(p, x) * gates(p, x)[..., None]
  return jnp.einsum('tef,efd->td', h, p['down'])


def weighed_before_the_last_product(p, x):
  h = hidden(p, x) * gates(p, x)[..., None]
  return jnp.einsum('tef,efd->ted', h, p['down']).sum(1)


def with_a_shared_expert(p, x):
  return (jnp.einsum('te,ted->td', gates(p, x), products(p, x))
          + jax.nn.relu(x @ p['a']) @ p['b'])


@pytest.mark.parametrize('way, more', [
    (sums_over_experts_and_hidden_units, {}),
    (weighed_before_the_last_product, {}),
    (with_a_shared_expert, {'a': array(WIDTH, 5), 'b': array(5, WIDTH)})])
def test_other_experts_do_not_count(way, more):
  p = {n: P[n] for n in ('router', 'up', 'down')} | more
  found, (tie,) = measured(way, p, X)
  np.testing.assert_allclose(
      found[tie.name], mean_norms([numbers(P, x) for x in X]), rtol=1e-5)


def slots(p, x, capacity=4):
  """The best two experts, each of which takes so many tokens and no more."""
  g, who = chosen(p, x)
  turns = who.transpose(1, 0, 2).reshape(-1, who.shape[2])
  place = (jnp.cumsum(turns, 0) - turns).reshape(2, *who.shape[::2]).transpose(
      1, 0, 2)
  slot = jax.nn.one_hot((place * who).sum(-1).astype(jnp.int32), capacity)
  return jnp.einsum('tk,tke,tkc->tec', g, who, slot)


def with_capacity(p, x):
  combine = slots(p, x)
  taken = jnp.einsum('tec,td->ecd', (combine > 0).astype(x.dtype), x)
  h = jax.nn.relu(jnp.einsum('ecd,edf->ecf', taken, p['up']))
  y = jnp.einsum('ecf,efd->ecd', h, p['down']) + p['bias'][:, None]
  return x + jnp.einsum('tec,ecd->td', combine, y)


def test_tokens_that_were_dropped_do_not_count():
  found, (tie,) = measured(with_capacity, P, X)
  pairs = []
  for x in X:
    g, y = numbers(P, x)
    order = [(t, j) for k in (-1, -2) for t, j in enumerate(
        np.argsort(x @ P['router'])[:, k])]
    taken, kept = np.zeros(EXPERTS, int), np.zeros(g.shape)
    for t, j in order:
      kept[t, j] = taken[j] < 4
      taken[j] += 1
    assert kept.sum() < (g > 0).sum()
    pairs.append((g * kept, y))
  np.testing.assert_allclose(
      found[tie.name], mean_norms(pairs, P['bias']), rtol=1e-5)


def test_padding_does_not_count_and_experts_without_tokens_have_nothing():
  p = P | {'router': P['router'] + np.float32([[0, 0, -9, 0]])}
  x = [abs(array(12, WIDTH))]
  fn = lambda p, x: weighted(p, x.reshape(-1, WIDTH)).reshape(x.shape)
  found, (tie,) = measured(
      fn, p, [x[0].reshape(3, 4, WIDTH)],
      weights=lambda x: jnp.arange(4)[None] < jnp.array([[4], [2], [1]]))
  mask = np.arange(4) < np.array([[4], [2], [1]])
  np.testing.assert_allclose(found[tie.name], mean_norms(
      [numbers(p, x[0])], P['bias'], mask.reshape(-1, 1)), rtol=1e-5)
  assert found[tie.name][2] == 0
  gone = np.where(mask[..., None], x[0].reshape(3, 4, WIDTH), np.nan)
  again = calibration.reap(
      fn, p, [gone], [tie], weights=lambda x: jnp.asarray(mask, jnp.float32))
  np.testing.assert_allclose(again[tie.name], found[tie.name], rtol=1e-6)
  with pytest.raises(ValueError, match='leading axes'):
    measured(fn, p, [x[0].reshape(3, 4, WIDTH)],
             weights=lambda x: jnp.ones(12))
  with pytest.raises(ValueError, match='weights must return an array .* None'):
    measured(fn, p, [x[0].reshape(3, 4, WIDTH)], weights=lambda x: None)


def unrolled(p, x):
  for one in p:
    x = x + weighted(one, x)
  return x


def looped(p, x):
  turn = jax.checkpoint(lambda x, one: (x + weighted(one, x), None))
  return jax.lax.scan(turn, x, p)[0]


LAYERS = [layer() for _ in range(3)]
STACKED = jax.tree.map(lambda *w: np.stack(w), *LAYERS)


def test_layers_have_their_own():
  apart, _ = measured(unrolled, LAYERS, X)
  together, (tie,) = measured(looped, STACKED, X)
  inputs, rows = X, []
  for p in LAYERS:
    pairs = [numbers(p, x) for x in inputs]
    rows.append(mean_norms(pairs, p['bias']))
    inputs = [x + np.einsum('te,ted->td', g, y + p['bias'])
              for x, (g, y) in zip(inputs, pairs)]
  assert tie.shape == (3, EXPERTS)
  np.testing.assert_allclose(together[tie.name], rows, rtol=1e-4)
  np.testing.assert_allclose([*apart.values()], rows, rtol=1e-4)


@pytest.mark.parametrize('fn, params', [
    (unrolled, LAYERS), (looped, STACKED)], ids=['unrolled', 'looped'])
def test_the_least_go_and_the_others_do_what_they_did(fn, params):
  found, ties = measured(fn, params, X)
  keep = units.keep_units(found, ties, count=3)
  small = units.slim(params, ties, keep)
  assert {w.shape[-1] for w in jax.tree.leaves(
      [p['router'] for p in small] if fn is unrolled else small['router'])
          } == {3}
  kept = np.concatenate([np.atleast_2d(keep[tie.name]) for tie in ties])
  scores = np.concatenate([np.atleast_2d(found[tie.name]) for tie in ties])
  np.testing.assert_array_equal((~kept).argmax(1), scores.argmin(1))

  def masked(p, x):
    """The function in which those that went are never chosen."""
    for one, k in zip(LAYERS, kept):
      logits = jnp.where(k[None], x @ one['router'], -1e9)
      top, which = jax.lax.top_k(logits, 2)
      y = jnp.einsum('tk,tke,ted->td', jax.nn.softmax(top), jax.nn.one_hot(
          which, EXPERTS), outputs(one, x))
      x = x + y
    return x
  np.testing.assert_allclose(
      fn(small, X[0]), masked(LAYERS, X[0]), rtol=1e-4, atol=1e-5)


def test_outputs_in_16_bits_are_summed_in_32():
  half = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), P)
  x = [jnp.asarray(x, jnp.bfloat16) for x in X]
  found, (tie,) = measured(weighted, half, x)
  np.testing.assert_allclose(found[tie.name], mean_norms(
      [numbers(half, x) for x in x], np.asarray(half['bias'], 'f4')), rtol=3e-2)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_tokens_may_be_shared_out(kind):
  x = array(16, WIDTH)
  tie, = ties = units.experts(units.infer_ties(weighted, P, x))
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  data = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
  with jax.set_mesh(mesh):
    found = calibration.reap(weighted, P, [data], ties)
  np.testing.assert_allclose(found[tie.name], mean_norms(
      [numbers(P, x)], P['bias']), rtol=1e-5)


def looped_over_experts(p, x):
  def turn(y, one):
    up, down, g = one
    return y + g[:, None] * (jax.nn.relu(x @ up) @ down), None
  return jax.lax.scan(turn, x, (p['up'], p['down'], gates(p, x).T))[0]


def ragged(p, x):
  top, which = jax.lax.top_k(x @ p['router'], 2)
  which = which.reshape(-1)
  order = jnp.argsort(which)
  sizes = jnp.bincount(which, length=EXPERTS).astype(jnp.int32)
  h = jax.lax.ragged_dot(jnp.repeat(x, 2, 0)[order], p['up'], sizes)
  y = jax.lax.ragged_dot(jax.nn.relu(h), p['down'], sizes)
  y = jnp.zeros_like(y).at[order].set(y).reshape(-1, 2, WIDTH)
  return jnp.einsum('tk,tkd->td', jax.nn.softmax(top), y)


def slices_of_kernels(p, x):
  top, which = jax.lax.top_k(x @ p['router'], 2)
  h = jax.nn.relu(jnp.einsum('td,tkdf->tkf', x, p['up'][which]))
  y = jnp.einsum('tkf,tkfd->tkd', h, p['down'][which])
  return jnp.einsum('tk,tkd->td', jax.nn.softmax(top), y)


def outputs_that_are_used_twice(p, x):
  y = outputs(p, x)
  return jnp.einsum('te,ted->td', gates(p, x), y) * (y * y).mean()


def under_another_sum(p, x):
  y = outputs(p, x)
  return (y * y).mean() * jnp.einsum('te,ted->td', gates(p, x), y)


def weighed_too_early(p, x):
  return jnp.tanh(gates(p, x)[..., None] * outputs(p, x)).sum(1)


@pytest.mark.parametrize('fn, error', [
    (looped_over_experts, 'needs ties of experts'),
    (ragged, 'ragged_dot'),
    (slices_of_kernels, 'no product of'),
    (outputs_that_are_used_twice, 'in two ways'),
    (under_another_sum, 'in two ways'),
    (weighed_too_early, 'only then goes through tanh')],
                         ids=lambda x: getattr(x, '__name__', ''))
def test_what_is_not_followed_is_told(fn, error):
  with pytest.raises(ValueError, match=error):
    measured(fn, P, X)


def test_no_batches_are_told():
  ties = units.experts(units.infer_ties(weighted, P, X[0]))
  with pytest.raises(ValueError, match='no batches'):
    calibration.reap(weighted, P, [], ties)
