"""Functions of `shard_map`: ties and kernels are those of the whole arrays."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse
from jaxsparse.graph import infer_kernels
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

SAME = 1e-5


def _shard(f, in_specs, out_specs, **options):
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  return jax.shard_map(
      f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options)


def _ties(fn, shapes, *inputs):
  """Checked ties, which also move and go without a change of the function."""
  params = weights(shapes)
  ties = jaxsparse.infer_ties(fn, params, *inputs)
  removable = [tie for tie in ties.free if not (tie.kept or tie.untried)]
  keep = {tie.name: np.broadcast_to(
      np.arange(tie.size) < tie.size - 1, tie.shape) for tie in removable}
  if keep:
    zero = {path: np.array(w) for path, w in params.items()}
    for tie in removable:
      for m in tie.members:
        there = jaxsparse.units.ties.view(tie, m, zero[m.path])
        there[(slice(None),) * len(tie.along) + (-1,)] = 0
    run = jax.jit(fn)
    before, after = (np.asarray(run(p, *inputs)) for p in (
        zero, jaxsparse.slim(zero, ties, keep)))
    assert np.abs(before - after).max() <= SAME * np.abs(before).max()
  return {frozenset((m.path, m.axis) for m in tie.members): tie
          for tie in ties.free}


_MLP = {'in': (4, 8), 'bias': (8,), 'out': (8, 6)}
_HIDDEN = frozenset({('in', 1), ('bias', 0), ('out', 0)})


def _hidden(p, x):
  h = x @ p['in']
  return jnp.tanh(h + jnp.broadcast_to(p['bias'], h.shape))


def test_tensor_parallel_units_move_within_their_device():
  specs = {'in': P(None, 'm'), 'bias': P('m'), 'out': P('m', None)}
  fn = _shard(lambda p, x: jax.lax.psum(_hidden(p, x) @ p['out'], 'm'),
              (specs, P('d')), P('d'))
  tie = _ties(fn, _MLP, data(4, 4))[_HIDDEN]
  assert (tie.size, tie.along, tie.kept) == (4, (2,), None)
  kernels = infer_kernels(fn, weights(_MLP), data(4, 4))
  assert kernels['in'].contracted == kernels['out'].contracted == (0,)
  assert kernels['in'].outputs == kernels['out'].outputs == (1,)
  assert jaxsparse.flops(fn, weights(_MLP), data(4, 4)).by_parameter[
      'in'] == 2 * 4 * 4 * 8


def test_data_parallel_units_move_as_ever():
  fn = _shard(lambda p, x: _hidden(p, x) @ p['out'], (P(), P('d')), P('d'))
  tie = _ties(fn, _MLP, data(4, 4))[_HIDDEN]
  assert (tie.size, tie.along, tie.kept) == (8, (), None)


@pytest.mark.parametrize('spec', [P('d', None), P(None, ('d', 'm')),
                                  P('m', 'd')], ids=str)
def test_weights_that_are_gathered_are_whole(spec):
  def fn(p, x):
    w = p['in']
    for axis, part in enumerate(spec):
      if part is not None:
        w = jax.lax.all_gather(w, part, axis=axis, tiled=True)
    return _hidden({**p, 'in': w}, x) @ p['out']
  fn = _shard(fn, ({'in': spec, 'bias': P(), 'out': P()}, P('d')), P('d'),
              check_vma=False)
  ties = _ties(fn, _MLP, data(4, 4))
  assert sum(_HIDDEN <= members for members in ties)


def test_what_devices_add_up_has_one_order_on_all_of_them():
  """Each device has hidden units of its own, which meet those of the others."""
  def fn(p, x):
    h = jax.lax.psum(jnp.tanh(x @ p['in'][0]), 'm')
    return h @ p['out']
  fn = _shard(fn, ({'in': P('m'), 'out': P()}, P()), P())
  tie = _ties(fn, {'in': (2, 4, 6), 'out': (6, 3)}, data(3, 4))[
      frozenset({('in', 2), ('out', 0)})]
  assert (tie.size, tie.along) == (6, ())


def test_what_goes_round_has_one_order_on_all_devices():
  def fn(p, x):
    h = jnp.tanh(x @ p['in'])
    h = h + jax.lax.ppermute(h, 'm', [(0, 1), (1, 0)])
    return jax.lax.psum(h @ p['out'], 'm')
  specs = {'in': P(None, 'm'), 'out': P('m', None)}
  tie = _ties(_shard(fn, (specs, P()), P()), {'in': (4, 8), 'out': (8, 6)},
              data(3, 4))[frozenset({('in', 1), ('out', 0)})]
  assert (tie.size, tie.along) == (4, ())


def test_a_sum_that_is_scattered():
  def fn(p, x):
    y = jax.lax.psum_scatter(jnp.tanh(x @ p['in']) @ p['mid'], 'm',
                             scatter_dimension=1, tiled=True)
    return jax.lax.psum(jnp.tanh(y) @ p['out'], 'm')
  specs = {'in': P(None, 'm'), 'mid': P('m', None), 'out': P('m', None)}
  ties = _ties(
      _shard(fn, (specs, P('d')), P('d')),
      {'in': (4, 8), 'mid': (8, 6), 'out': (6, 2)}, data(4, 4))
  # Each device could have its own order, but `mid` is shared out both ways.
  for members in ({('in', 1), ('mid', 0)}, {('mid', 1), ('out', 0)}):
    assert ties[frozenset(members)].along == ()


@pytest.mark.parametrize('other', [
    lambda h: jax.lax.all_to_all(h, 'm', 1, 1, tiled=True),
    lambda h: h * (1. + jax.lax.axis_index('m').astype(jnp.float32)),
    lambda h: jnp.roll(h, 1, axis=1)])
def test_what_is_not_followed_is_not_guessed(other):
  def fn(p, x):
    return jax.lax.psum(other(jnp.tanh(x @ p['in'])) @ p['out'], 'm')
  specs = {'in': P(None, 'm'), 'out': P('m', None)}
  _ties(_shard(fn, (specs, P()), P()), {'in': (4, 8), 'out': (8, 6)},
        data(3, 4))


def test_layers_of_a_scan_inside():
  def fn(p, x):
    def layer(x, p):
      return x + jax.lax.psum(jnp.tanh(x @ p['in']) @ p['out'], 'm'), None
    return jax.lax.scan(layer, x, p)[0]
  specs = {'in': P(None, None, 'm'), 'out': P(None, 'm', None)}
  ties = _ties(_shard(fn, (specs, P('d')), P('d')),
               {'in': (3, 4, 8), 'out': (3, 8, 4)}, data(4, 4))
  tie = ties[frozenset({('in', 2), ('out', 1)})]
  assert tie.size == 4 and sorted(tie.along) == [2, 3]


def test_a_mesh_of_one_device_is_none():
  mesh = jax.make_mesh((1,), ('m',), axis_types=(jax.sharding.AxisType.Auto,))
  fn = jax.shard_map(
      lambda p, x: jax.lax.psum(_hidden(p, x) @ p['out'], 'm'), mesh=mesh,
      in_specs=({'in': P(None, 'm'), 'bias': P('m'), 'out': P('m')}, P()),
      out_specs=P())
  tie = _ties(fn, _MLP, data(4, 4))[_HIDDEN]
  assert (tie.size, tie.along) == (8, ())
