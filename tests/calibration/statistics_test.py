"""Statistics of inputs, against what modules and loops by hand have seen."""

import functools
import re

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.calibration import input_statistics
from tests._lib.calibration import three_turns

RNG = np.random.default_rng(0)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def of_rows(x, kind):
  """Of inputs `[..., tokens, in]`, in float64."""
  x = np.asarray(x, np.float64)
  return (x**2).sum(-2) if kind == 'norm' else np.einsum(
      '...tk,...tl->...kl', x, x)


def assert_near(got, expected):
  assert got.dtype == jnp.float32 and got.shape == expected.shape
  assert np.abs(got - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)


class Block(nn.Module):

  @nn.compact
  def __call__(self, x):
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(2, qkv_features=8)(h, h)
    return x + nn.Dense(8, name='down')(nn.gelu(nn.Dense(16, name='up')(x)))


class Net(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 2), name='conv')(x)
    x = nn.Conv(8, (3, 3), strides=2, feature_group_count=4, name='groups')(x)
    x = nn.Conv(8, (3, 3), kernel_dilation=2, feature_group_count=8,
                name='depthwise')(x)
    x = Block(name='block')(x.reshape(x.shape[0], -1, 8))
    return nn.Dense(3, name='head')(x.mean(1))


@pytest.fixture(name='linen', scope='module')
def _linen():
  """A model, its variables and inputs, and what its modules see."""
  net, x = Net(), array(2, 6, 6, 3)
  seen = {}

  def look(method, args, kwargs, context):
    if isinstance(context.module, (nn.Dense, nn.DenseGeneral, nn.Conv)):
      path = '/'.join(('params', *context.module.path, 'kernel'))
      seen[path] = context.module, np.asarray(args[0])
    return method(*args, **kwargs)
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      variables = net.init(jax.random.key(0), x)
      with nn.intercept_methods(look):
        net.apply(variables, x)
      yield net.apply, variables, x, seen


def _patches(conv, x):
  """`[groups, tokens, in]`, in the order of a kernel [h, w, in, out]."""
  size, groups = conv.kernel_size, conv.feature_group_count or 1
  stride = conv.strides or 1
  y = lax.conv_general_dilated_patches(
      x, size, (stride, stride) if isinstance(stride, int) else stride, 'SAME',
      rhs_dilation=(conv.kernel_dilation or 1,) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  y = np.asarray(y).reshape(-1, groups, x.shape[-1] // groups, np.prod(size))
  return y.transpose(1, 0, 3, 2).reshape(groups, len(y), -1)


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_kernels_of_linen_see_what_their_modules_see(linen, kind):
  apply, variables, x, seen = linen
  stats = jax.jit(functools.partial(
      input_statistics, apply, kind=kind))(variables, x)
  assert set(stats) == set(seen)
  for path, (module, data) in seen.items():
    if isinstance(module, nn.Conv):
      rows = _patches(module, data)
      rows = rows if len(rows) > 1 else rows[0]
    else:
      axes = module.axis if isinstance(module, nn.DenseGeneral) else -1
      count = len(axes) if isinstance(axes, tuple) else 1
      rows = data.reshape(-1, int(np.prod(data.shape[-count:])))
    assert_near(stats[path].sum, of_rows(rows, kind))
    np.testing.assert_array_equal(
        stats[path].count, np.full(rows.shape[:-2], rows.shape[-2]))


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_layers_of_a_scan_have_one_each_and_what_they_share_has_the_sum(kind):
  p = {'in': array(3, 4, 6), 'out': array(3, 6, 4), 'shared': array(4, 4)}

  def fn(p, x):
    @jax.remat
    def layer(x, q):
      x = x + jnp.tanh(x @ q['in']) @ q['out']
      return x + 0.1 * jnp.tanh(x @ p['shared']), None
    return lax.scan(layer, x, {k: p[k] for k in ('in', 'out')})[0]
  x = array(5, 4)
  stats = input_statistics(fn, p, x, kind=kind)
  seen = {'in': [], 'out': [], 'shared': []}
  for i in range(3):
    seen['in'].append(of_rows(x, kind))
    h = np.tanh(x @ p['in'][i])
    seen['out'].append(of_rows(h, kind))
    x = x + h @ p['out'][i]
    seen['shared'].append(of_rows(x, kind))
    x = x + 0.1 * np.tanh(x @ p['shared'])
  assert_near(stats['in'].sum, np.stack(seen['in']))
  assert_near(stats['out'].sum, np.stack(seen['out']))
  assert_near(stats['shared'].sum, sum(seen['shared']))
  assert stats['in'].count.tolist() == [5, 5, 5] and stats['shared'].count == 15


@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_layers_of_a_scan_may_all_read_what_is_outside(transform):
  """As a decoder reads its memory; and so may the turns of other loops."""
  p, memory = {'k': array(3, 4, 6), 'v': array(4, 6)}, array(7, 4)

  def fn(p, x, memory):
    def layer(x, k):
      return jnp.tanh(x) + (memory @ k).sum() + (memory @ p['v']).sum(), None
    x, _ = lax.scan(layer, x, p['k'])
    return lax.fori_loop(0, 2, lambda _, x: x + (memory @ p['v']).sum(), x)
  stats = transform(functools.partial(input_statistics, fn))(
      p, array(5, 2), memory)
  once = np.square(memory).sum(0)
  assert_near(stats['k'].sum, np.stack([once] * 3))
  assert_near(stats['v'].sum, 5 * once)
  assert stats['k'].count.tolist() == [7] * 3 and stats['v'].count == 35


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_no_accelerator_rounds_the_products(kind):
  """By default products of float32 have 8 to 11 bits there."""
  def fn(p, x):
    x = lax.conv(x, p['conv'], (1, 1), 'SAME', precision='highest')
    return jnp.dot(x.reshape(5, -1), p['out'], precision='highest')
  p = {'conv': array(2, 3, 3, 3), 'out': array(32, 2)}
  text = jax.jit(functools.partial(input_statistics, fn, kind=kind)).lower(
      p, array(5, 3, 4, 4)).as_text()
  products = re.findall(r'stablehlo.(?:convolution|dot_general).*', text)
  # Of patches, one operand has ones and zeros, which nothing rounds.
  assert len(products) >= 2 and all('HIGHEST' in line for line in products)


def test_a_while_adds_up_its_turns_and_a_cond_what_it_runs():
  p, x = {'w': array(4, 4), 'v': array(4, 4)}, array(3, 4)
  stats = jax.jit(functools.partial(input_statistics, three_turns))(p, x)
  w = v = 0.
  for i in range(3):
    w = w + of_rows(x, 'norm')
    x = np.tanh(x @ p['w'])
    if i:
      v = v + of_rows(x, 'norm')
      x = x @ p['v']
  assert_near(stats['w'].sum, w)
  assert_near(stats['v'].sum, v)
  assert (stats['w'].count, stats['v'].count) == (9, 6)


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_experts_have_one_each(kind):
  p, x = {'w': array(3, 4, 5)}, array(7, 3, 4)
  stats = input_statistics(
      lambda p, x: jnp.einsum('ted,edf->tef', x, p['w']), p, x, kind=kind)
  assert_near(stats['w'].sum, of_rows(x.swapaxes(0, 1), kind))
  rows, sizes = array(5, 4), np.array([2, 0, 3], np.int32)
  stats = input_statistics(
      lambda p, x: lax.ragged_dot(x, p['w'], sizes), p, rows, kind=kind)
  assert_near(stats['w'].sum, np.stack([of_rows(part, kind) for part in (
      rows[:2], rows[:0], rows[2:])]))
  assert stats['w'].count.tolist() == [2, 0, 3]
  # Nobody knows how rows were sorted by expert.
  with pytest.raises(ValueError, match='not supported for ragged products'):
    input_statistics(lambda p, x: lax.ragged_dot(x, p['w'], sizes), p, rows,
                     weights=jnp.ones(5), kind=kind)


def _every_turn(one, x, *layers):
  return lax.scan(lambda x, w: (one(x, *w), None), x, layers)[0]


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_layers_and_experts_are_in_the_order_of_the_kernels_axes(kind):
  """As where layers are stacked along the second axis, after experts."""
  w, x = array(2, 3, 4, 4), array(2, 7, 4)
  experts = lambda x, w: jnp.tanh(jnp.einsum('etd,edf->etf', x, w))
  fn = lambda p, x: _every_turn(experts, x, p['w'].swapaxes(0, 1))
  found = input_statistics(fn, {'w': w}, x, kind=kind)['w']
  assert found.count.shape == (2, 3)
  for layer in range(3):
    assert_near(found.sum[:, layer], of_rows(x, kind))
    x = np.asarray(experts(x, w[:, layer]))


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_layers_that_loops_within_loops_read_are_those_of_the_kernel(kind):
  w, x = array(4, 4, 4), array(7, 4)
  one = lambda x, w: jnp.tanh(x @ w)
  some = lambda x, w: _every_turn(one, x, w)
  fn = lambda p, x: _every_turn(some, x, p['w'].reshape(2, 2, 4, 4))
  found = input_statistics(fn, {'w': w}, x, kind=kind)['w']
  for layer in range(4):
    assert_near(found.sum[layer], of_rows(x, kind))
    x = np.tanh(x @ w[layer])


def test_a_kernel_that_is_repeated_has_the_sum_and_parts_of_outputs_none():
  w, x = array(4, 6), array(3, 7, 4)
  repeated = lambda p, x: lax.batch_matmul(
      x, jnp.broadcast_to(p['w'], (3, 4, 6)))
  found = input_statistics(repeated, {'w': w}, x)['w']
  assert_near(found.sum, of_rows(x.reshape(-1, 4), 'norm'))
  assert found.count == 21
  # Its first axis is layers in part, and outputs in part.
  fn = lambda p, x: _every_turn(
      lambda x, w: x + (x @ w.T).sum(), x, p['w'].reshape(2, 3, 4))
  with pytest.raises(ValueError, match='cannot be found'):
    input_statistics(fn, {'w': w.T}, x[0])


@pytest.mark.parametrize('fn, shape', [
    (lambda p, x: x @ p['w'], (8, 3)), (lambda p, x: x @ p['w'].T, (3, 8)),
    (lambda p, x: (p['w'].T @ x.T).T, (8, 3)),
    (lambda p, x: jnp.einsum('thk,hko->to', x.reshape(-1, 2, 4),
                             p['w'].reshape(2, 4, 3)), (8, 3)),
    (lambda p, x: jnp.einsum('thk,kho->to', x.reshape(-1, 2, 4),
                             p['w'].reshape(2, 4, 3).swapaxes(0, 1)), (8, 3)),
    (lambda p, x: jnp.einsum('thk,hko->to', x.reshape(-1, 2, 4), p['w']),
     (2, 4, 3)),
    (lambda p, x: x @ (2. * p['w'].astype(jnp.float16)).astype('float32'),
     (8, 3)),
    (lambda p, x: x @ jnp.where(np.eye(8, 3) > 0, p['w'], 0.), (8, 3)),
    (lambda p, x: jax.jit(jnp.dot)(x, p['w']), (8, 3))])
def test_inputs_are_in_the_order_of_the_kernels_axes(fn, shape):
  x = array(5, 8)
  stats = input_statistics(fn, {'w': array(*shape)}, x, kind='moment')
  assert_near(stats['w'].sum, of_rows(x, 'moment'))


def test_a_kernel_read_twice_has_the_sum_and_batches_add_up():
  p, x = {'w': array(4, 4)}, array(6, 4)
  step = functools.partial(
      input_statistics, lambda p, x: jnp.tanh(x @ p['w']) @ p['w'])
  stats = step(p, x)
  assert_near(stats['w'].sum, of_rows(
      np.concatenate([x, np.tanh(x @ p['w'])]), 'norm'))
  parts = jax.tree.map(jnp.add, step(p, x[:2]), step(p, x[2:]))
  assert_near(parts['w'].sum, np.asarray(stats['w'].sum))
  assert parts['w'].count == stats['w'].count == 12


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_padding_weighs_nothing(kind):
  x, mask = array(2, 5, 4), np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0.]], 'f4')
  fn = lambda p, x: jnp.einsum('btd,dhk->bthk', x, p['w'])
  stats = input_statistics(
      fn, {'w': array(4, 2, 3)}, x, kind=kind, weights=jnp.array(mask))
  assert_near(stats['w'].sum, of_rows(x[mask > 0], kind))
  assert stats['w'].count == 6
  with pytest.raises(ValueError, match=re.escape('got (2, 4)')):
    input_statistics(fn, {'w': array(4, 2, 3)}, x, weights=jnp.ones((2, 4)))


def test_one_computation_for_those_that_read_the_same():
  p = {name: array(4, 4) for name in 'qkv'}
  fn = lambda p, x: sum(x @ p[name] for name in 'qkv')
  jaxpr = jax.make_jaxpr(functools.partial(
      input_statistics, fn, kind='moment'))(p, array(3, 4))
  assert str(jaxpr).count('precision=(HIGHEST') + str(jaxpr).count(
      'precision=HIGHEST') <= 2
  stats = jaxpr.jaxpr.outvars
  assert len({stats[0], stats[2], stats[4]}) == 1


def test_layers_after_the_last_that_is_asked_for_are_not_computed():
  p = {name: array(64, 64) for name in 'abcd'}

  def fn(p, x):
    for name in 'abcd':
      x = jnp.tanh(x @ p[name])
    return x
  cost = lambda which: jax.jit(functools.partial(
      input_statistics, fn, which=which)).lower(
          p, array(8, 64)).compile().cost_analysis()['flops']
  assert cost('a') < 0.1 * cost('d') and cost('b') < 0.5 * cost('d')


@pytest.mark.parametrize('kind', ['norm', 'moment'])
def test_on_a_mesh_nothing_is_gathered(kind):
  mesh = jax.make_mesh((4, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  p, x = {'up': array(8, 16), 'down': array(16, 8)}, array(16, 8)
  specs = {'up': P(None, 'm'), 'down': P('m', None)}
  step = jax.jit(functools.partial(
      input_statistics, lambda p, x: jnp.tanh(x @ p['up']) @ p['down'],
      kind=kind))
  expected = step(p, x)
  with jax.set_mesh(mesh):
    placed = {name: jax.device_put(w, NamedSharding(mesh, specs[name]))
              for name, w in p.items()}
    args = placed, jax.device_put(x, NamedSharding(mesh, P('d', None)))
    got = step(*args)
    text = step.lower(*args).compile().as_text()
  for name in p:
    assert_near(np.asarray(got[name].sum), np.asarray(expected[name].sum))
  assert kind == 'moment' or 'all-gather' not in text


def _sharded(p, x, *, total):
  x = lax.conv_general_dilated(
      x, p['conv'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  x = total(jnp.tanh(x.reshape(-1, 8) @ p['up']) @ p['down'])
  return lax.scan(lambda x, w: (x @ w, None), x, p['layers'])[0]


@pytest.mark.parametrize('kind', ['norm', 'moment'])
@pytest.mark.parametrize('checked', [True, False])
def test_shard_map_changes_nothing(kind, checked):
  p = {'conv': array(3, 3, 2, 8), 'up': array(8, 6), 'down': array(6, 4),
       'layers': array(3, 4, 4)}
  x = array(8, 3, 2, 2)
  mesh = jax.make_mesh((4, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  specs = {**dict.fromkeys(p, P()), 'up': P(None, 'm'), 'down': P('m')}
  fn = jax.shard_map(
      functools.partial(_sharded, total=lambda y: lax.psum(y, 'm')), mesh=mesh,
      in_specs=(specs, P('d')), out_specs=P('d'), check_vma=checked)
  got = input_statistics(fn, p, x, kind=kind)
  expected = input_statistics(
      functools.partial(_sharded, total=lambda y: y), p, x, kind=kind)
  assert set(got) == set(p)
  for path, (total, count) in expected.items():
    assert_near(got[path].sum, np.asarray(total))
    np.testing.assert_array_equal(got[path].count, count)


def test_what_is_not_seen_is_named():
  p, x = {'a': array(4, 4), 'b': array(4, 4)}, array(2, 4)
  mesh = jax.make_mesh((2,), ('d',), axis_types=(
      jax.sharding.AxisType.Auto,))
  hidden = jax.shard_map(
      lambda x, w: lax.ppermute(x, 'd', [(0, 1), (1, 0)]) @ w, mesh=mesh,
      in_specs=(P('d'), P()), out_specs=P('d'))
  fn = lambda p, x: hidden(x @ p['a'], p['b'])
  with pytest.raises(ValueError, match=r"\['b'\] cannot be found.*shard_map"):
    input_statistics(fn, p, x, which='b')
  with pytest.warns(UserWarning, match=r"\['b'\] cannot be found"):
    assert list(input_statistics(fn, p, x)) == ['a']


def test_mistakes_are_taught():
  p, x = {'w': array(4, 4)}, array(2, 4)
  fn = lambda p, x: x @ p['w']
  with pytest.raises(ValueError, match="'norm' or 'moment', got 'mean'"):
    input_statistics(fn, p, x, kind='mean')
  with pytest.raises(ValueError, match=r"got 'v'.*\['w'\]"):
    input_statistics(fn, p, x, which='v')
  conv = lambda p, x: lax.conv(x, p['w'], (1, 1), 'SAME')
  with pytest.raises(ValueError, match='not supported for conv'):
    input_statistics(conv, {'w': array(2, 3, 3, 3)}, array(1, 3, 5, 5),
                     weights=jnp.ones(1))
