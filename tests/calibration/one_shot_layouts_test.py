"""Kernels of any layout, and layers, against matrices one by one."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from tests._lib.calibration import array
from tests._lib.calibration import assert_trees
from tests._lib.calibration import HALF


def block(p, x):
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  q, k, v = (jnp.einsum('btd,dhk->bhtk', h, p[n]) for n in 'qkv')
  a = jax.nn.softmax(jnp.einsum('bhtk,bhsk->bhts', q, k))
  x = x + jnp.einsum('bhts,bhsk,hkd->btd', a, v, p['out'])
  return x + jax.nn.gelu(x @ p['up']) @ p['down']


def layers(n):
  one = lambda: {'q': array(8, 2, 4), 'k': array(8, 2, 4), 'v': array(8, 2, 4),
                 'out': array(2, 4, 8), 'up': array(8, 16),
                 'down': array(16, 8)}
  return [jax.tree.map(lambda w: w / 3, one()) for _ in range(n)]


ONES = layers(3)
STACKED = {'layers': jax.tree.map(lambda *ws: np.stack(ws), *ONES)}


def unrolled(p, x):
  for layer in p['layers']:
    x = block(layer, x)
  return x


def scanned(p, x):
  turn = jax.checkpoint(lambda x, layer: (block(layer, x), x.sum()))
  return lax.scan(turn, x, p['layers'])


def backwards(p, x):
  turn = lambda x, layer: (block(layer, x), x.sum())
  return lax.scan(turn, x, jax.tree.map(lambda w: w[::-1], p['layers']),
                  reverse=True)


@pytest.mark.parametrize('method, pattern', [
    ('wanda', jaxsparse.nm(2, 4)), ('sparsegpt', HALF)])
def test_layers_of_a_scan_are_those_of_a_loop(method, pattern):
  x = [array(2, 6, 8) for _ in range(2)]
  states = []
  expected, masks = jaxsparse.one_shot(
      jax.jit(unrolled), {'layers': ONES}, x, pattern, method)
  got = jaxsparse.one_shot(scanned, STACKED, x, pattern, method,
                           save=states.append)
  stacked = lambda tree: {'layers': jax.tree.map(
      lambda *ws: np.stack(ws), *tree['layers'])}
  assert_trees(got, (stacked(expected), stacked(masks)))
  assert len(states) == 3 * 4
  errors = states[-1].errors['layers/out']
  assert errors.shape == (3,) and bool(jnp.isnan(errors).all()) == (
      method == 'wanda')
  half = states[5]  # The second layer's queries, keys, values and outputs.
  np.testing.assert_array_equal(half.params['layers']['out'][2], ONES[2]['out'])
  assert half.masks['layers']['out'][2].all()
  assert not half.masks['layers']['out'][:2].all((1, 2, 3)).any()


def test_a_sparsity_for_each_layer():
  shares = np.array([.25, .5, .75])
  _, masks = jaxsparse.one_shot(
      scanned, STACKED, [array(2, 6, 8)],
      {'layers/up': jaxsparse.unstructured()}, 'sparsegpt',
      {'layers/up': shares})
  np.testing.assert_array_equal(
      masks['layers']['up'].sum((1, 2)), 128 * (1 - shares))


def test_inputs_of_several_axes_in_any_order():
  """Of a kernel [in a, out, in b]; groups along b are neighbours in no row."""
  w, x = array(3, 5, 8), array(64, 3, 8)
  fn = lambda p, x: jnp.einsum('tab,aob->to', x, p['w'])
  got, masks = jaxsparse.one_shot(
      fn, {'w': w}, [x], {'w': jaxsparse.nm(2, 4, axis=-1)}, 'sparsegpt')
  rows, m = x.reshape(64, 24), w.swapaxes(1, 2).reshape(24, 5)
  v, mask = calibration.sparsegpt(m, rows.T @ rows, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(
      masks['w'], mask.reshape(3, 8, 5).swapaxes(1, 2))
  np.testing.assert_allclose(
      got['w'], v.reshape(3, 8, 5).swapaxes(1, 2), rtol=1e-4, atol=1e-5)


def test_groups_along_a_major_axis():
  w, x = array(4, 3, 5), array(64, 4, 3)
  fn = lambda p, x: jnp.einsum('tab,abo->to', x, p['w'])
  _, masks = jaxsparse.one_shot(
      fn, {'w': w}, [x], {'w': jaxsparse.nm(1, 4, axis=0)}, 'sparsegpt')
  rows = x.swapaxes(1, 2).reshape(64, 12)
  m = w.swapaxes(0, 1).reshape(12, 5)
  _, mask = calibration.sparsegpt(m, rows.T @ rows, jaxsparse.nm(1, 4))
  np.testing.assert_array_equal(
      masks['w'], mask.reshape(3, 4, 5).swapaxes(0, 1))
  assert (masks['w'].sum(0) == 1).all()


@pytest.mark.parametrize('groups', [1, 2, 8])
def test_convolutions_in_groups(groups):
  w, x = array(3, 3, 8 // groups, 16), array(4, 9, 9, 8)

  def fn(p, x):
    return lax.conv_general_dilated(
        x, p['w'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups)
  got, masks = jaxsparse.one_shot(fn, {'w': w}, [x], {'w': HALF}, 'admm')
  patches = lax.conv_general_dilated_patches(
      x, (3, 3), (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  rows = patches.reshape(-1, groups, 8 // groups, 9).swapaxes(2, 3).reshape(
      -1, groups, 72 // groups)
  outs = 16 // groups
  for g in range(groups):
    mine = slice(g * outs, (g + 1) * outs)
    v, mask = calibration.admm(
        w[..., mine].reshape(-1, outs), rows[:, g].T @ rows[:, g], HALF)
    np.testing.assert_array_equal(
        masks['w'][..., mine].reshape(-1, outs), mask)
    np.testing.assert_allclose(
        got['w'][..., mine].reshape(-1, outs), v, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('method, sparsity, sequential', [
    ('magnitude', .5, True), ('magnitude', np.array([.25, .75]), True),
    ('wanda', .5, True), ('sparsegpt', np.array([.25, .75]), False)], ids=str)
def test_groups_of_convolutions_of_a_scan_compete_each_by_itself(
    method, sparsity, sequential):
  rng = np.random.default_rng(1)
  w = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
  w[..., 4:] *= 100.
  x = rng.normal(size=(16, 12, 8)).astype(np.float32)

  def fn(p, x):
    step = lambda x, w: (lax.conv_general_dilated(
        x, w / 100, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'),
        feature_group_count=2), ())
    return lax.scan(step, x, p['w'])[0]
  _, masks = jaxsparse.one_shot(
      fn, {'w': w}, [x], jaxsparse.unstructured(), method,
      sparsity={'w': sparsity}, sequential=sequential)
  kept = np.asarray(masks['w']).reshape(2, 12, 2, 4).mean((1, 3))
  np.testing.assert_allclose(
      kept, np.broadcast_to(1 - np.reshape(sparsity, (-1, 1)), (2, 2)))


def test_convolutions_of_members_are_pruned_as_each_alone():
  w, x = array(2, 3, 8, 4), array(2, 5, 9, 8)
  conv = lambda x, w: lax.conv_general_dilated(
      x, w, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))
  got, masks = jaxsparse.one_shot(
      lambda p, x: jax.vmap(conv)(x, p['w']), {'w': w}, [x], jaxsparse.nm(2, 4))
  for member in range(2):
    v, mask = jaxsparse.one_shot(
        lambda p, x: conv(x, p['w']), {'w': w[member]}, [x[member]],
        jaxsparse.nm(2, 4))
    np.testing.assert_array_equal(masks['w'][member], mask['w'])
    np.testing.assert_allclose(got['w'][member], v['w'], rtol=1e-5, atol=1e-6)


def test_experts_compete_each_by_itself():
  w, x = array(3, 8, 4), array(3, 32, 8)
  fn = lambda p, x: jnp.einsum('etd,edo->eto', x, p['w'])
  got, masks = jaxsparse.one_shot(fn, {'w': w}, [x], {'w': HALF})
  for e in range(3):
    v, mask = calibration.sparsegpt(w[e], x[e].T @ x[e], HALF)
    np.testing.assert_array_equal(masks['w'][e], mask)
    np.testing.assert_allclose(got['w'][e], v, rtol=1e-4, atol=1e-5)


class Net(nn.Module):

  @nn.compact
  def __call__(self, x):
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(2, qkv_features=8)(h, h)
    return nn.Dense(4)(nn.gelu(nn.Dense(16)(x)).mean(1))


def test_a_pattern_is_for_all_kernels_of_any_framework():
  x = [array(4, 5, 8) for _ in range(3)]
  net = Net()
  params = net.init(jax.random.key(0), x[0])
  got, masks = jaxsparse.one_shot(net.apply, params, x, jaxsparse.nm(2, 4))
  attention = masks['params']['MultiHeadDotProductAttention_0']
  assert (attention['out']['kernel'].reshape(2, 4, 8).sum(1) == 2).all()
  assert (attention['query']['kernel'].reshape(2, 4, 8).sum(1) == 2).all()
  assert attention['out']['bias'] is None
  for w, mask in zip(jax.tree.leaves(got), jax.tree.leaves(
      masks, is_leaf=lambda m: m is None)):
    assert mask is None or not w[~mask].any()
  assert jnp.isfinite(net.apply(got, x[0])).all()
