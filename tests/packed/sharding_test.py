"""Packed weights on a mesh of eight devices: the same results, few messages."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse.packed import layout24
from jaxsparse.packed.sharding import partition_specs
from jaxsparse.packed.sharding import sharded_matmul
from tests._lib.packed import assert_near
from tests._lib.packed import assert_same
from tests._lib.packed import gradients
from tests._lib.packed import normal
from tests._lib.packed import prune
from tests._lib.packed import two_way
from tests._lib.packed import unpack
from tests._lib.packed import wide
from tests._lib.packed import with_values

_BOTH = pytest.mark.parametrize('how', ['columns', 'rows'])
_KINDS = pytest.mark.parametrize(
    'kind', [AxisType.Auto, AxisType.Explicit], ids=str)
_ABORTS = re.compile(r'sharding_constraint %\d+ <@\w+, \[\]> : tensor<b?f16>')
_MOVES = re.compile(r' (all-gather|all-reduce|all-to-all|collective-permute|'
                    r'collective-broadcast|reduce-scatter)(?:-start)?\(')


def mesh_of(kind, data=4, model=2):
  return jax.make_mesh((data, model), ('data', 'model'), axis_types=(kind,) * 2)


def shard(w, mesh, **how):
  """Puts a packed weight where `partition_specs` says."""
  return jax.device_put(w, jax.tree.map(
      lambda spec: NamedSharding(mesh, spec), partition_specs(w, **how),
      is_leaf=lambda x: isinstance(x, P)))


def tokens(mesh, spec, k=512, dtype=np.float32):
  """Activations `[4, 8, K]`; for rows K is where the weight's is."""
  x = normal(4, 8, k, seed=5, dtype=dtype)
  return jax.device_put(x, NamedSharding(mesh, spec))


def compiled(f, *args):
  """Fails where XLA's CPU compiler would abort the process.

  It cannot promote a sum of bfloat16 whose reducer has a sharding, as those of
  `shard_map` have on meshes with axes that are not manual.
  """
  lowered = jax.jit(f).lower(*args)
  if _ABORTS.search(lowered.as_text()):
    pytest.fail('a psum of bfloat16 on a mesh that is manual in part')
  return lowered.compile()


def moves(f, *args):
  """The collectives in the compiled program."""
  return sorted(_MOVES.findall(compiled(f, *args).as_text()))


@functools.cache
def weight(dtype='float32', layout='planar', transposed=False):
  # In Hopper's layout and transposed, N is of whole tiles on two devices.
  n = 512 if transposed else 256 if layout == 'hopper' else 6
  return layout24.with_layout(layout24.pack(
      two_way(512, n, dtype=jnp.dtype(dtype)), transposed=transposed), layout)


_WEIGHTS = pytest.mark.parametrize('options', [
    {}, {'transposed': True},
    {'dtype': 'bfloat16', 'layout': 'hopper', 'transposed': True}], ids=str)


@_BOTH
@_WEIGHTS
@pytest.mark.parametrize('leading', [(), (3,)], ids=str)
def test_specs_have_the_structure_of_the_weight_and_fit_its_arrays(
    how, options, leading):
  w = weight(**options)
  w = jax.tree.map(lambda x: jnp.zeros(leading + x.shape, x.dtype), w)
  specs = partition_specs(w, **{how: 'model'})
  is_spec = lambda x: isinstance(x, P)
  assert (jax.tree.structure(specs, is_leaf=is_spec)
          == jax.tree.structure(w))
  for x, spec in zip(jax.tree.leaves(w),
                     jax.tree.leaves(specs, is_leaf=is_spec)):
    assert spec.count('model') == 1 and len(spec) <= x.ndim
    assert not any(spec[:len(leading)])
    assert x.shape[spec.index('model')] % 2 == 0


@_KINDS
@_BOTH
@_WEIGHTS
def test_a_sharded_weight_is_the_same_weight(kind, how, options):
  w = weight(**options)
  mesh = mesh_of(kind, 1, 2)
  sharded = shard(w, mesh, **{how: 'model'})
  assert_same(jax.device_get(sharded), jax.device_get(w))
  for x, part in zip(jax.tree.leaves(w), jax.tree.leaves(sharded)):
    assert part.addressable_shards[0].data.size == x.size // 2
  if w.layout != 'hopper':
    with jax.set_mesh(mesh):
      np.testing.assert_array_equal(np.float32(unpack(sharded)),
                                    np.float32(unpack(w)))


@_KINDS
@_BOTH
@_WEIGHTS
def test_products_and_gradients_are_those_of_one_device(kind, how, options):
  w = weight(**options)
  mesh = mesh_of(kind, 1, 2)
  sharded = shard(w, mesh, **{how: 'model'})
  x = tokens(mesh, P(None, None, 'model') if how == 'rows' else P(),
             dtype=w.dtype)
  f = lambda x, v: sharded_matmul(x, with_values(sharded, v), mesh=mesh,
                                  **{how: 'model'})
  y = compiled(f, x, sharded.values)(x, sharded.values)
  assert_near(y, np.matmul(*wide(x, unpack(w))))
  assert y.sharding.is_equivalent_to(NamedSharding(
      mesh, P(None, None, 'model') if how == 'columns' else P()), 3)
  dy = jax.device_put(normal(*y.shape, seed=2, dtype=w.dtype), y.sharding)
  operands = x, sharded.values, dy
  dx, dv = compiled(lambda x, v, dy: jax.vjp(f, x, v)[1](dy), *operands)(
      *operands)
  expected = gradients(x, w, dy)
  # Of bfloat16, each device rounds its part of a sum.
  tolerance = 2e-2 if w.dtype == jnp.bfloat16 else None
  assert_near(dx, expected[0], tolerance)
  assert_near(unpack(with_values(w, jax.device_get(dv))), expected[1],
              tolerance)
  assert dv.sharding.is_equivalent_to(sharded.values.sharding, dv.ndim)


@_KINDS
@_BOTH
def test_tangents_and_hessians_are_those_of_one_device(kind, how):
  w, mesh = weight(), mesh_of(kind, 2, 2)
  sharded = shard(w, mesh, **{how: 'model'})
  x = tokens(mesh, P('data', None, 'model' if how == 'rows' else None))
  dx, v, dv = 2 * x, sharded.values, 3 * sharded.values
  product = lambda x, v: sharded_matmul(
      x, with_values(sharded, v), mesh=mesh, batch='data', **{how: 'model'})
  loss = lambda x, v: (product(x, v)**2).sum()

  def run(x, v, dx, dv):
    return (jax.jvp(product, (x, v), (dx, dv))[1],
            *jax.jvp(jax.grad(loss, (0, 1)), (x, v), (dx, dv))[1])
  dy, hx, hv = compiled(run, x, v, dx, dv)(x, v, dx, dv)
  # With dx = 2 x and dw = 3 w everything is a multiple of the first gradients.
  y = np.matmul(*wide(x, unpack(w)))
  assert_near(dy, 5 * y)
  to_x, to_w = gradients(x, w, 2 * y)
  assert_near(hx, (5 + 3) * to_x)
  assert_near(unpack(with_values(w, jax.device_get(hv))), (5 + 2) * to_w)
  assert hv.sharding.is_equivalent_to(v.sharding, v.ndim)


@_KINDS
@_BOTH
@pytest.mark.parametrize('batch', [('data', None), (None, 'data')], ids=str)
def test_the_batch_is_sharded_over_another_axis(kind, how, batch):
  w = weight()
  mesh = mesh_of(kind)
  with jax.set_mesh(mesh):
    sharded = shard(w, mesh, **{how: 'model'})
    x = tokens(mesh, P(*batch, 'model' if how == 'rows' else None))
    # Explicit axes tell of themselves.
    f = lambda x, v: sharded_matmul(
        x, with_values(sharded, v), **{how: 'model'},
        batch=P(*batch) if kind is AxisType.Auto else None)
    y = jax.jit(f)(x, sharded.values)
    assert_near(y, np.matmul(*wide(x, unpack(w))))
    dx, dv = jax.jit(jax.grad(lambda x, v: (f(x, v) ** 2).sum(), (0, 1)))(
        x, sharded.values)
  expected = gradients(x, w, 2 * y)
  assert_near(dx, expected[0])
  assert_near(unpack(with_values(w, jax.device_get(dv))), expected[1])
  assert dx.sharding.is_equivalent_to(x.sharding, 3)


@_BOTH
@pytest.mark.parametrize('kinds', [
    (AxisType.Auto, AxisType.Explicit), (AxisType.Explicit, AxisType.Auto)],
                         ids=str)
def test_a_mesh_may_have_auto_and_explicit_axes(how, kinds):
  w = weight()
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=kinds)
  with jax.set_mesh(mesh):
    sharded = shard(w, mesh, **{how: 'model'})
    x = tokens(mesh, P('data', None, 'model' if how == 'rows' else None))

    def run(x, v):
      y, back = jax.vjp(lambda x, v: sharded_matmul(
          x, with_values(sharded, v), batch='data', **{how: 'model'}), x, v)
      return y, *back(y)
    y, dx, dv = jax.jit(run)(x, sharded.values)
  assert_near(y, np.matmul(*wide(x, unpack(w))))
  expected = gradients(x, w, y)
  assert_near(dx, expected[0])
  assert_near(unpack(with_values(w, jax.device_get(dv))), expected[1])
  assert dx.sharding.is_equivalent_to(x.sharding, 3)


@_KINDS
@_BOTH
def test_nothing_is_gathered_and_rows_are_summed_once(kind, how):
  mesh = mesh_of(kind)
  with jax.set_mesh(mesh):
    w = shard(weight(), mesh, **{how: 'model'})
    x = tokens(mesh, P('data', None, 'model' if how == 'rows' else None))
    f = lambda x, w: sharded_matmul(x, w, **{how: 'model'}, batch='data')
    assert moves(f, x, w) == ['all-reduce'] * (how == 'rows')


@_BOTH
def test_backward_sums_once_for_the_batch_and_once_for_columns(how):
  # dw over the batch's axis; dx over the model's, if it shares out the columns.
  mesh = mesh_of(AxisType.Auto)
  with jax.set_mesh(mesh):
    w = shard(weight(), mesh, **{how: 'model'})
    x = tokens(mesh, P('data', None, 'model' if how == 'rows' else None))
    f = lambda x, v: sharded_matmul(
        x, with_values(w, v), **{how: 'model'}, batch='data')
    dy = jax.device_put(
        normal(4, 8, 6), NamedSharding(
            mesh, P('data', None, 'model' if how == 'columns' else None)))
    back = lambda x, v, dy: jax.vjp(f, x, v)[1](dy)
    assert moves(back, x, w.values, dy) == (
        ['all-reduce'] * (2 if how == 'columns' else 1))


def test_gradients_of_hoppers_layout_are_summed_over_the_batch():
  w = weight('bfloat16', 'hopper')
  mesh = mesh_of(AxisType.Auto)
  x, dy = normal(4, 512, seed=3, dtype=w.dtype), normal(4, 256, dtype=w.dtype)
  f = lambda v: sharded_matmul(x, with_values(w, v), mesh=mesh,
                               columns='model', batch='data')
  dv, = jax.jit(lambda v: jax.vjp(f, v)[1](dy))(w.values)
  assert_near(unpack(with_values(w, dv)), gradients(x, w, dy)[1])


@_KINDS
def test_columns_then_rows_make_a_layer_with_one_sum(kind):
  mesh = mesh_of(kind, 1, 2)
  first, second = (layout24.pack(two_way(*s)) for s in ((8, 512), (512, 4)))
  x = normal(3, 8, seed=1)
  with jax.set_mesh(mesh):
    a = shard(first, mesh, columns='model')
    b = shard(second, mesh, rows='model')
    f = lambda x, a, b: sharded_matmul(
        jnp.tanh(sharded_matmul(x, a, columns='model')), b, rows='model')
    y = jax.jit(f)(x, a, b)
    assert moves(f, x, a, b) == ['all-reduce']
  assert_near(y, np.tanh(x @ np.float64(unpack(first)))
              @ np.float64(unpack(second)))


@_BOTH
@pytest.mark.parametrize('axis, shape, x_shape', [
    (-3, (512, 2, 3), (4, 512)), ((-3, -2), (2, 256, 6), (4, 2, 256)),
    (-1, (6, 512), (4, 512))], ids=str)
def test_attention_and_out_in_weights(how, axis, shape, x_shape):
  k = 512
  n = int(np.prod(shape)) // k
  matrix = prune(normal(k, n))
  w = layout24.pack((matrix.T if axis == -1 else matrix).reshape(shape),
                   axis=axis)
  mesh = mesh_of(AxisType.Auto, 1, 2)
  x = normal(*x_shape, seed=1)
  y = jax.jit(lambda x, w: sharded_matmul(x, w, mesh=mesh, **{how: 'model'}))(
      x, shard(w, mesh, **{how: 'model'}))
  assert y.shape == (4, *w.features)
  assert_near(y.reshape(4, n), x.reshape(4, k) @ np.float64(matrix))


def test_options_are_those_of_matmul():
  mesh = mesh_of(AxisType.Auto, 1, 2)
  w, x = weight('bfloat16'), tokens(mesh, P(), dtype=jnp.bfloat16)
  for how in ('columns', 'rows'):
    sharded = shard(w, mesh, **{how: 'model'})
    y = jax.jit(lambda x, w: sharded_matmul(
        x, w, mesh=mesh, **{how: 'model'},  # noqa: B023
        preferred_element_type=jnp.float32, implementation='xla'))(x, sharded)
    assert y.dtype == jnp.float32
    assert_near(y, np.matmul(*wide(x, unpack(w))))
    with pytest.raises(NotImplementedError, match='tpu: '):
      jax.jit(lambda x, w: sharded_matmul(
          x, w, mesh=mesh, **{how: 'model'},  # noqa: B023
          implementation='tpu'))(x, sharded)


def test_parts_are_summed_before_they_are_rounded():
  # The first device's part, 257, is no bfloat16; the sum of both, 1, is.
  mesh = mesh_of(AxisType.Auto, 1, 2)
  dense = np.zeros((512, 1), jnp.bfloat16)
  dense[[0, 1, 256]] = [[256], [1], [-256]]
  x = jax.device_put(jnp.ones((1, 512), jnp.bfloat16),
                     NamedSharding(mesh, P(None, 'model')))
  w = shard(layout24.pack(dense), mesh, rows='model')
  f = lambda x, w: sharded_matmul(x, w, mesh=mesh, rows='model')
  assert compiled(f, x, w)(x, w)[0, 0] == 1


def test_one_device_is_a_mesh_too():
  mesh = mesh_of(AxisType.Auto, 8, 1)
  w = layout24.pack(prune(normal(5, 3)))
  x = normal(2, 5)
  y = jax.jit(lambda x, w: sharded_matmul(x, w, mesh=mesh, columns='model'))(
      x, shard(w, mesh, columns='model'))
  assert_near(y, np.matmul(*wide(x, unpack(w))))


@_BOTH
@_KINDS
def test_no_jit_is_needed(how, kind):
  mesh = mesh_of(kind, 1, 2)
  w = weight()
  x = tokens(mesh, P(None, None, 'model' if how == 'rows' else None))
  y = sharded_matmul(x, shard(w, mesh, **{how: 'model'}), mesh=mesh,
                     **{how: 'model'})
  assert_near(y, np.matmul(*wide(x, unpack(w))))


@_BOTH
@_KINDS
@pytest.mark.parametrize('data', [1, 4])
def test_programs_for_tpu_have_the_kernel_on_every_device(how, kind, data):
  # A kernel is not partitioned by the compiler: no axis may be left to it.
  mesh = mesh_of(kind, data, 2)
  with jax.set_mesh(mesh):
    w = shard(layout24.pack(prune(normal(512, 256))), mesh, **{how: 'model'})
    x = tokens(mesh, P('data' if data > 1 else None, None,
                       'model' if how == 'rows' else None))
    f = lambda x, w: sharded_matmul(x, w, **{how: 'model'})
    program = jax.export.export(jax.jit(f), platforms=['tpu'])(x, w)
  assert 'tpu_custom_call' in program.mlir_module()


@_KINDS
def test_a_whole_weight_serves_a_sharded_batch(kind):
  mesh = mesh_of(kind, 8, 1)
  w = weight()
  x = jax.device_put(normal(8, 512), NamedSharding(mesh, P('data')))
  with jax.set_mesh(mesh):
    f = lambda x, w: sharded_matmul(x, w, batch='data')
    assert moves(f, x, w) == []
    y = jax.jit(f)(x, w)
  assert_near(y, np.matmul(*wide(x, unpack(w))))
  assert y.sharding.is_equivalent_to(x.sharding, 2)


def test_columns_and_rows_at_once_are_an_error():
  mesh = mesh_of(AxisType.Auto)
  how = {'columns': 'model', 'rows': 'model'}
  w = layout24.pack(jnp.zeros((512, 8)))
  with pytest.raises(ValueError, match="columns='model'"):
    partition_specs(w, **how)
  with pytest.raises(ValueError, match="columns='model'"):
    sharded_matmul(jnp.zeros((1, 512)), w, mesh=mesh, **how)


def test_an_axis_that_the_mesh_does_not_have_is_named():
  w, x = layout24.pack(jnp.zeros((512, 8))), jnp.zeros((1, 512))
  with pytest.raises(ValueError, match="'modle'.*'model': 2"):
    sharded_matmul(x, w, mesh=mesh_of(AxisType.Auto), columns='modle')
  with pytest.raises(ValueError, match='set_mesh'):
    sharded_matmul(x, w, columns='model')


@pytest.mark.parametrize('shape, axis, dtype, layout, how, told', [
    ((256, 8), -2, 'float32', 'planar', 'rows', r'512.*\(256,\)'),
    ((511, 8), -2, 'float32', 'planar', 'rows', r'512.*\(511,\)'),
    ((768, 8), -2, 'float32', 'planar', 'rows', r'512.*\(768,\)'),
    ((512, 7), -2, 'float32', 'planar', 'columns', r'2.*\(7,\)'),
    ((512, 128), -2, 'bfloat16', 'hopper', 'columns', r'256.*\(128,\)'),
    ((512, 3, 2), -3, 'float32', 'planar', 'columns', r'2.*\(3, 2\)'),
    ((3, 512, 2), (-3, -2), 'float32', 'planar', 'rows', r'2.*\(3, 512\)'),
], ids=str)
def test_parts_that_would_not_be_whole_tiles_are_an_error(
    shape, axis, dtype, layout, how, told):
  w = layout24.with_layout(
      layout24.pack(jnp.zeros(shape, dtype), axis=axis), layout)
  with pytest.raises(ValueError, match=f'{how}(?s:.*){told}'):
    sharded_matmul(jnp.zeros((1, *w.contracted), dtype), w,
                   mesh=mesh_of(AxisType.Auto), **{how: 'model'})


def test_a_transposed_form_that_cannot_be_cut_is_what_the_error_is_about():
  # Its rows are the weight's columns, and come in tiles of 256.
  w = layout24.pack(jnp.zeros((512, 8)), transposed=True)
  with pytest.raises(ValueError, match='(?s)columns.*transposed'):
    sharded_matmul(jnp.zeros((1, 512)), w, mesh=mesh_of(AxisType.Auto),
                   columns='model')


def test_a_batch_of_more_axes_than_x_has_is_an_error():
  w = layout24.pack(jnp.zeros((512, 8)))
  with pytest.raises(ValueError, match='must have at most 1'):
    sharded_matmul(jnp.zeros((1, 512)), w, mesh=mesh_of(AxisType.Auto),
                   columns='model', batch=P('data', None))


def test_x_that_does_not_fit_is_shown():
  w = layout24.pack(jnp.zeros((512, 8)))
  for how in ('columns', 'rows'):
    with pytest.raises(ValueError, match=r'\(1, 1024\)|\(1, 512\)'):
      sharded_matmul(jnp.zeros((1, 1024)), w, mesh=mesh_of(AxisType.Auto),
                     **{how: 'model'})


def test_several_weights_are_told_of_vmap():
  w = layout24.pack(jnp.zeros((3, 512, 8)))
  with pytest.raises(ValueError, match='vmap'):
    sharded_matmul(jnp.zeros((1, 512)), w, mesh=mesh_of(AxisType.Auto),
                   columns='model')


@_BOTH
def test_stacked_weights_are_scanned(how):
  mesh = mesh_of(AxisType.Auto, 1, 2)
  dense = np.stack([two_way(512, 512, seed=i) / 20 for i in range(2)])
  w = shard(layout24.pack(dense), mesh, **{how: 'model'})
  x = normal(2, 512)
  step = lambda x, w: (sharded_matmul(x, w, mesh=mesh, **{how: 'model'}), None)
  y, _ = jax.jit(lambda x, w: jax.lax.scan(step, x, w))(x, w)
  assert_near(y, np.float64(x) @ np.float64(dense[0]) @ np.float64(dense[1]))
