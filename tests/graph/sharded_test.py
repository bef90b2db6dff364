"""What taps return in `shard_map` is what they return of whole arrays."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.graph import taps
from tests._lib.calibration import three_turns

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture(name='mesh', params=[(2, 2), (4, 2), (1, 4)], ids=str)
def _mesh(request):
  return jax.make_mesh(request.param, ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)


@pytest.fixture(name='shard', params=[True, False], ids=['vma', ''])
def _shard(request, mesh):
  """`shard_map` as a decorator, with types checked and not."""
  return lambda *specs: functools.partial(
      jax.shard_map, mesh=mesh, in_specs=specs[:-1], out_specs=specs[-1],
      check_vma=request.param)


def tap(product):
  rows = product.rows.reshape(
      *product.rows.shape[:product.batch], -1, product.rows.shape[-1])
  count = jnp.full(rows.shape[:-2], rows.shape[-2], jnp.float32)
  if product.groups is not None:
    ends = jnp.cumsum(product.groups)
    group = jnp.searchsorted(ends, jnp.arange(len(rows)), side='right')
    mine = jnp.where(group[None] == jnp.arange(len(ends))[:, None], 1., 0.)
    rows = rows[None] * mine[:, :, None]
    count = mine.sum(-1)
  return jnp.einsum('...tk,...tl->...kl', rows, rows), count


def sums(fn, p, *inputs):
  return jax.jit(lambda p, *inputs: taps.run(fn, p, *inputs, tap=tap))(
      p, *inputs)


def assert_same(got, expected):
  assert set(got) == set(expected) and got
  for path, (moment, count) in expected.items():
    assert got[path][0].shape == moment.shape
    np.testing.assert_array_equal(got[path][1], count)
    np.testing.assert_allclose(got[path][0], moment, rtol=2e-5, atol=2e-5)


def mlp(p, x, total=lambda y: y):
  return total(jnp.tanh(x @ p['up']) @ p['down'])


MLP = {'up': array(4, 8), 'down': array(8, 4)}
SPLIT = {'up': P(None, 'm'), 'down': P('m', None)}


def by_m(y):
  return lax.psum(y, 'm')


@pytest.mark.parametrize('specs, total', [
    ({'up': P(), 'down': P()}, lambda y: y), (SPLIT, by_m),
    (SPLIT, lambda y: by_m(0. + y.astype(jnp.bfloat16).T.astype(
        jnp.float32)).T)], ids=['data', 'tensor', 'casts'])
@pytest.mark.parametrize('rows', [P('d'), P(), P(None)], ids=str)
def test_data_and_kernels_that_are_shared_out(shard, specs, total, rows):
  fn = shard(specs, rows, rows)(functools.partial(mlp, total=total))
  x = array(8, 4)
  assert_same(sums(fn, MLP, x), sums(mlp, MLP, x))


def gathered(p, x, total=lambda y: y):
  whole = {name: lax.all_gather(p[name], 'd', axis=axis, tiled=True)
           for axis, name in enumerate(('up', 'down'))}
  return mlp(whole, x, total)


@pytest.mark.parametrize('specs, total', [
    ({'up': P('d'), 'down': P(None, 'd')}, lambda y: y),
    ({'up': P('d', 'm'), 'down': P('m', 'd')}, by_m)], ids=['data', 'both'])
def test_kernels_that_are_gathered_are_whole(shard, specs, total):
  fn = shard(specs, P('d'), P('d'))(functools.partial(gathered, total=total))
  x = array(8, 4)
  assert_same(sums(fn, MLP, x), sums(mlp, MLP, x))


def test_inputs_that_are_scattered_after_a_sum(shard):
  def fn(p, x):
    y = lax.psum_scatter(jnp.tanh(x @ p['up']) @ p['down'], 'm',
                         scatter_dimension=1, tiled=True)
    return by_m(jnp.tanh(y) @ p['end'])
  p, x = {**MLP, 'end': array(4, 3)}, array(8, 4)
  fn = shard({**SPLIT, 'end': P('m')}, P('d'), P('d'))(fn)
  assert_same(sums(fn, p, x), sums(
      lambda p, x: jnp.tanh(mlp(p, x)) @ p['end'], p, x))


def test_sequences_that_devices_share_between_layers(shard):
  def layer(p, x, gather, scatter):
    rows = gather(x / (1. + jnp.square(x).sum(-1, keepdims=True)))
    return x @ p['own'] + scatter(jnp.tanh(rows @ p['up']) @ p['down'])
  p, x = {**MLP, 'own': array(4, 4)}, array(16, 4)
  fn = shard({**SPLIT, 'own': P()}, P(('d', 'm')), P(('d', 'm')))(
      functools.partial(
          layer, gather=lambda x: lax.all_gather(x, 'm', tiled=True),
          scatter=lambda y: lax.psum_scatter(y, 'm', tiled=True)))
  same = lambda x: x
  assert_same(sums(fn, p, x), sums(
      functools.partial(layer, gather=same, scatter=same), p, x))


HEADS = {'v': array(8, 4, 2), 'o': array(4, 2, 8), 'mlp': array(8, 8)}


def test_heads_and_a_parallel_layer_are_summed_up_at_once(shard):
  def fn(p, x, total):
    v = jnp.einsum('td,dhk->thk', x, p['v'])
    y = jnp.einsum('thk,hkd->td', jnp.tanh(v), p['o'])
    return total(y + jax.nn.relu(v.reshape(v.shape[0], -1)) @ p['mlp'])
  specs = {'v': P(None, 'm'), 'o': P('m'), 'mlp': P('m')}
  x = array(8, 8)
  sharded = shard(specs, P('d'), P('d'))(functools.partial(fn, total=by_m))
  assert_same(sums(sharded, HEADS, x),
              sums(functools.partial(fn, total=lambda y: y), HEADS, x))


def experts(p, x):
  return jnp.einsum('etf,efd->etd', jnp.tanh(jnp.einsum(
      'etd,edf->etf', x, p['w'])), p['v'])


@pytest.mark.parametrize('specs', [
    (P('m'), P('m', 'd')), (P(('d', 'm')), P(('d', 'm')))], ids=str)
def test_experts_that_are_shared_out_are_put_together(shard, specs):
  weights, x = {'w': array(8, 4, 5), 'v': array(8, 5, 3)}, array(8, 12, 4)
  fn = shard(specs[0], specs[1], specs[1])(experts)
  assert_same(sums(fn, weights, x), sums(experts, weights, x))


def test_experts_along_two_axes(shard, mesh):
  n, m = mesh.shape['d'], mesh.shape['m']
  w, x = array(2, n, 3, m, 2, 4, 5), array(2, n, 3, m, 2, 6, 4)
  fn = lambda p, x: jnp.einsum('abcdetk,abcdekf->abcdetf', x, p)
  spec = P(None, 'd', None, 'm')
  assert_same(sums(shard(spec, spec, spec)(fn), w, x), sums(fn, w, x))


def test_one_expert_for_each_device(shard, mesh):
  n = mesh.shape['m']
  weights, x = {'w': array(n, 4, 5), 'v': array(n, 5, 3)}, array(n, 12, 4)
  one = lambda p, x: (jnp.tanh(x[0] @ p['w'][0]) @ p['v'][0])[None]
  fn = shard(P('m'), P('m', 'd'), P('m', 'd'))(one)
  assert_same(sums(fn, weights, x), sums(experts, weights, x))


def test_ragged_experts(shard, mesh):
  n = mesh.shape['m']
  weights, x = {'w': array(2 * n, 4, 5)}, array(6 * n, 4)
  sizes = jnp.array([4, 2] * n, jnp.int32)
  ragged = lambda p, x, sizes: lax.ragged_dot(x, p['w'], sizes)
  fn = shard(P('m'), P('m'), P('m'), P('m'))(ragged)
  assert_same(sums(fn, weights, x, sizes), sums(ragged, weights, x, sizes))


LAYERS = {'up': array(3, 4, 8), 'down': array(3, 8, 4)}


def layers(p, x, layer):
  return lax.scan(lambda x, q: (x + layer(q, x), None), x, p)[0]


@pytest.mark.parametrize('specs, total', [
    ({'up': P(), 'down': P()}, lambda y: y),
    ({'up': P(None, None, 'm'), 'down': P(None, 'm')}, by_m)],
                         ids=['data', 'tensor'])
def test_scans_inside_and_around(shard, specs, total):
  x, layer = array(8, 4), functools.partial(mlp, total=total)
  expected = sums(functools.partial(layers, layer=mlp), LAYERS, x)
  inside = shard(specs, P('d'), P('d'))(
      functools.partial(layers, layer=layer))
  assert_same(sums(inside, LAYERS, x), expected)
  slices = {name: P(*spec[1:]) for name, spec in specs.items()}
  around = functools.partial(layers, layer=shard(slices, P('d'), P('d'))(layer))
  assert_same(sums(around, LAYERS, x), expected)


def test_layers_of_experts_keep_the_order_of_layers_and_experts(shard):
  weights = {'w': array(3, 4, 5, 5)}, array(4, 8, 5)
  fn = functools.partial(layers, layer=lambda q, x: jnp.einsum(
      'etd,edf->etf', x, q['w']))
  sharded = shard(P(None, 'm'), P('m', 'd'), P('m', 'd'))(fn)
  assert_same(sums(sharded, *weights), sums(fn, *weights))


def test_what_is_shared_by_turns_has_the_sum_and_conds_what_they_run(shard):
  p, x = {'w': array(4, 4), 'v': array(4, 4)}, array(8, 4)
  fn = three_turns
  assert_same(sums(shard(P(), P('d'), P('d'))(fn), p, x), sums(fn, p, x))


@pytest.mark.parametrize('spec', [P(), P(None, None, None, 'm')], ids=str)
def test_convolutions_of_batches_and_for_some_outputs(shard, spec):
  p, x = {'w': array(3, 3, 2, 4)}, array(8, 5, 5, 2)
  fn = lambda p, x: lax.conv_general_dilated(
      x, p['w'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  seen = lambda fn: jax.jit(lambda p, x: taps.run(
      fn, p, x, tap=lambda product: (product.rows.sum(), 1. * len(
          product.rows))))(p, x)['w']
  got = seen(shard(spec, P('d'), P('d', None, None, *spec[3:]))(fn))
  np.testing.assert_allclose(got, seen(fn), rtol=1e-5)


def mixed(p, x):
  h = x @ p['w']
  return h @ p['w'] + lax.ppermute(h, 'm', [(0, 1), (1, 0)]) @ p['w']


@pytest.mark.parametrize('spec, rows, fn', [
    # No sum over the devices that share inputs, or one of something else.
    (P('m'), P('d', 'm'), lambda p, x: x @ p['w']),
    (P('m'), P('d', 'm'), lambda p, x: by_m(jnp.tanh(x @ p['w']))),
    (P('m'), P('d', 'm'), lambda p, x: lax.psum(x @ p['w'], 'd')),
    (P('m'), P('d', 'm'), lambda p, x: by_m((y := x @ p['w']) * y)),
    # Each part of the outputs has data of its own.
    (P(None, 'm'), P('m'), lambda p, x: x @ p['w']),
    (P('m'), P('d', 'm'), lambda p, x: by_m(2. * (x @ p['w']))),
    (P(), P('m'), lambda p, x: lax.cond(
        x[0, 0] > 0, lambda: jnp.ones((8, 8)), lambda: jnp.zeros((8, 8)))
     @ p['w']),
    # Nobody knows whether these are the same.
    (P(), P('m'), lambda p, x: lax.ppermute(
        x, 'm', [(0, 1), (1, 0)]) @ p['w']),
    (P(), P(), lambda p, x: x * lax.axis_index('m').astype(
        jnp.float32) @ p['w']),
    (P(), P('m'), lambda p, x: lax.all_to_all(
        x, 'm', 0, 0, tiled=True) @ p['w']),
    # Not one kernel, but one for each device.
    (P(), P('d'), lambda p, x: x @ (p['w'] * p['scale'][:1])),
    (P('m'), P(), lambda p, x: x @ lax.psum(p['w'], 'm')),
    # A product that is seen, and one that is not.
    (P(), P('m'), mixed)])
@pytest.mark.parametrize('checked', [True, False])
def test_what_is_none_of_these_is_not_shown(spec, rows, fn, checked):
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  inside = lambda p, x: fn(p, x).sum()[None, None]
  sharded = jax.shard_map(
      inside, mesh=mesh, in_specs=({'w': spec, 'scale': P('m')}, rows),
      out_specs=P('d', 'm'), check_vma=checked)
  p = {'w': array(8, 8), 'scale': array(4, 1)}
  width = 4 if spec == P('m') and rows == P() else 8
  assert 'w' not in sums(sharded, p, array(8, width))


def test_what_a_shard_map_in_another_one_does_is_not_shown():
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  inner = jax.shard_map(lambda x, w: x @ w, in_specs=(P('m'), P()),
                        out_specs=P('m'), axis_names={'m'})
  fn = jax.shard_map(
      lambda p, x: inner(x @ p['v'], p['w']), mesh=mesh, in_specs=(P(), P('d')),
      out_specs=P('d'), axis_names={'d'})
  p = {'v': array(4, 4), 'w': array(4, 4)}
  assert set(sums(fn, p, array(16, 4))) == {'v'}


def test_a_sum_that_is_complete_after_the_next_product_is_no_data(shard, mesh):
  p, x = {**MLP, 'end': array(4, 3)}, array(8, 4)
  delayed = lambda p, x: by_m(jnp.tanh(x @ p['up']) @ p['down'] @ p['end'])
  found = sums(shard({**SPLIT, 'end': P()}, P('d'), P('d'))(delayed), p, x)
  # A part of one device is all.
  assert 'up' in found and 'end' not in found and 'down' not in found
  del mesh


def test_what_goes_along_with_data_is_not_counted_by_devices(shard):
  """Each of several results, in a barrier, a sum over devices and in loops."""
  p = {'w': array(4, 4), 'v': array(4, 4)}
  x, same = array(8, 4), array(2, 4)

  def fn(p, x, same, total):
    x, same = total(x, same)
    x, same = lax.optimization_barrier((x, same))
    x, same = lax.fori_loop(0, 2, lambda i, xs: (
        jnp.tanh(xs[0]), xs[1] + 1.), (x, same))
    x, same = lax.scan(lambda xs, _: ((xs[0] * 2., xs[1]), None), (x, same),
                       None, length=2)[0]
    x, same = lax.cond(same[0, 0] > 0, lambda *xs: xs, lambda *xs: xs, x, same)
    return x @ p['w'] + (same @ p['v']).sum()
  sharded = shard(P(), P('d'), P(), P('d'))(functools.partial(
      fn, total=lambda *xs: lax.pmax(xs, 'm')))
  assert_same(sums(sharded, p, x, same), sums(
      functools.partial(fn, total=lambda *xs: xs), p, x, same))


def test_axes_of_a_mesh_that_are_not_manual_are_nobodys_business():
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  fn = jax.shard_map(mlp, mesh=mesh, in_specs=(P(), P('d')), out_specs=P('d'),
                     axis_names={'d'})
  x = array(8, 4)
  assert_same(sums(fn, MLP, x), sums(mlp, MLP, x))


def test_meshes_with_types_of_shardings():
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Explicit,) * 2)
  p, x = {**MLP, 'w': array(4, 4, 5)}, array(8, 4)
  specs = {**SPLIT, 'w': P('m')}

  def fn(p, x, total):
    y = mlp(p, x, total)
    rows = jnp.broadcast_to(y[None], (len(p['w']), *y.shape))
    return jnp.einsum('etd,edf->tef', rows, p['w'])
  expected = sums(functools.partial(fn, total=lambda y: y), p, x)
  with jax.set_mesh(mesh):
    sharded = jax.shard_map(
        functools.partial(fn, total=by_m), in_specs=(specs, P('d')),
        out_specs=P('d', 'm'))
    placed = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), (p, x),
        (specs, P('d')))
    assert_same(sums(sharded, *placed), expected)
