"""Constants are moved to where they are read; outputs stay."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse.units.folding import fold_constants
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

SAME = 1e-5  # Of the largest output, in f32.


def folded_as_is(fn, params, *inputs, dead):
  """Folds; outputs stay, and so do those of what is left when dead units go.

  Args:
    fn: a function.
    params: its parameters; those of `dead` units are made zero.
    *inputs: its inputs.
    dead: of parameters, indices of the last axis that are set to zero.

  Returns:
    What is folded, how many are alive afterwards, by tie.
  """
  params = {path: np.array(w) for path, w in params.items()}
  for path, at in dead.items():
    params[path][..., at] = 0
  ties = infer_ties(fn, params, *inputs, check=False)
  found = fold_constants(fn, params, ties, *inputs)
  live = alive(found.params, ties)
  run, expected = jax.jit(fn), fn(params, *inputs)
  for got in (found.params, slim(found.params, ties, live)):
    assert np.abs(run(got, *inputs) - expected).max() <= SAME * np.abs(
        expected).max()
  return found, {name: int(k.sum()) for name, k in live.items()}


def mlp(act):
  def fn(p, x):
    h = act(x @ p['w1'] + p['b1'][None])
    h = act(h @ p['w2'] + p['b2'][None])
    return h @ p['w3'] + p['b3'][None]
  return fn


def perceptron():
  return weights({'w1': (4, 7), 'b1': (7,), 'w2': (7, 6), 'b2': (6,),
                  'w3': (6, 3), 'b3': (3,)})


@pytest.mark.parametrize('act', [
    jax.nn.relu, jax.nn.gelu, jax.nn.silu, jnp.tanh])
@pytest.mark.parametrize('batch', [3, 1, 33])
def test_biases_of_a_perceptron_take_constants(act, batch):
  found, live = folded_as_is(mlp(act), perceptron(), data(batch, 4),
                             dead={'w1': [1, 4], 'w2': [0, 5]})
  assert {name: at.tolist() for name, at in found.folded.items()} == {
      'b1[*]': [1, 4], 'b2[*]': [0, 5]}
  assert not found.left and live['b1[*]'] == 5 and live['b2[*]'] == 4


def test_what_only_reads_constants_is_folded_next():
  params = perceptron()
  # Unit 3 of the second layer reads units 1 and 4 of the first alone.
  params['w2'] = params['w2'].at[jnp.array([0, 2, 3, 5, 6]), 3].set(0.)
  found, live = folded_as_is(
      mlp(jax.nn.relu), params, data(3, 4), dead={'w1': [1, 4]})
  assert found.folded['b2[*]'].tolist() == [3] and live['b2[*]'] == 5


def test_without_a_bias_only_zeros_go():
  def fn(p, x):
    return jax.nn.relu(x @ p['w1'] + p['b1'][None]) @ p['w2']
  params = weights({'w1': (4, 5), 'b1': (5,), 'w2': (5, 3)})
  params['b1'] = jnp.array([1., -1., 2., -2., 0.])
  found, live = folded_as_is(
      fn, params, data(3, 4), dead={'w1': [0, 1, 3, 4]})
  assert found.folded['b1[*]'].tolist() == [1, 3, 4]
  (why, at), = found.left['b1[*]'].items()
  assert 'w2: no parameter is added' in why and at.tolist() == [0]
  assert live['b1[*]'] == 2


def convolve(x, w, padding='SAME'):
  return jax.lax.conv_general_dilated(
      x, w, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def batch_norm(p, name, x):
  row = lambda key: p[f'{name}_{key}'][None, None, None]
  return (x - row('mean')) * jax.lax.rsqrt(row('var') + 1e-5) * row(
      'scale') + row('bias')


def convolutional(size, padding):
  def fn(p, x):
    x = jax.nn.relu(batch_norm(p, 'norm1', convolve(x, p['conv1'])))
    x = jax.nn.relu(batch_norm(p, 'norm2', convolve(x, p['conv2'], padding)))
    return x.mean((1, 2)) @ p['head']
  norms = {f'norm{i}_{key}': (n,) for i, n in ((1, 5), (2, 6))
           for key in ('mean', 'var', 'scale', 'bias')}
  params = weights({'conv1': (3, 3, 3, 5), 'conv2': (size, size, 5, 6),
                    'head': (6, 2), **norms})
  # After the norm: a positive constant, and one that relu makes zero.
  params['norm1_bias'] = jnp.array([5., -5., 1., 1., 1.])
  return fn, params


@pytest.mark.parametrize('size, padding', [(1, 'SAME'), (3, 'VALID')])
def test_means_of_a_batch_norm_take_constants(size, padding):
  fn, params = convolutional(size, padding)
  found, live = folded_as_is(
      fn, params, data(2, 5, 5, 3), dead={'conv1': [0, 1]})
  assert found.folded['conv1[:, :, :, *]'].tolist() == [0, 1]
  assert live['conv1[:, :, :, *]'] == 3 and not found.left
  assert not np.array_equal(found.params['norm2_mean'], params['norm2_mean'])
  assert found.params['norm2_bias'] is not None
  np.testing.assert_array_equal(
      found.params['norm2_bias'], params['norm2_bias'])


def test_padding_keeps_what_is_not_zero():
  fn, params = convolutional(3, 'SAME')
  found, live = folded_as_is(
      fn, params, data(2, 5, 5, 3), dead={'conv1': [0, 1]})
  name = 'conv1[:, :, :, *]'
  assert found.folded[name].tolist() == [1] and live[name] == 4
  assert {why: at.tolist() for why, at in found.left[name].items()} == {
      'padding breaks it at the borders of conv2': [0]}


def test_all_readers_must_agree():
  def fn(p, x, *, both):
    h = jnp.tanh(x @ p['w1'] + p['b1'][None])
    y = jnp.tanh(h @ p['w2'] + p['b2'][None])
    z = h @ p['w3']
    return y + jnp.tanh(z + p['b3'][None] if both else z)
  params = weights({'w1': (4, 5), 'b1': (5,), 'w2': (5, 3), 'b2': (3,),
                    'w3': (5, 3), 'b3': (3,)})
  found, live = folded_as_is(
      lambda p, x: fn(p, x, both=True), params, data(3, 4), dead={'w1': [2]})
  assert found.folded['b1[*]'].tolist() == [2] and live['b1[*]'] == 4
  found, live = folded_as_is(
      lambda p, x: fn(p, x, both=False), params, data(3, 4), dead={'w1': [2]})
  assert not found.folded and live['b1[*]'] == 5
  assert [at.tolist() for at in found.left['b1[*]'].values()] == [[2]]


def test_a_concatenation_folds_its_parts():
  def fn(p, x):
    h = jnp.concatenate([jnp.tanh(x @ p['a'] + p['a_bias'][None]),
                         jnp.tanh(x @ p['c'] + p['c_bias'][None])], -1)
    return jnp.tanh(h @ p['w'].T + p['b'][None])
  params = weights({'a': (4, 3), 'a_bias': (3,), 'c': (4, 5), 'c_bias': (5,),
                    'w': (2, 8), 'b': (2,)})
  found, live = folded_as_is(
      fn, params, data(3, 4), dead={'a': [0], 'c': [1, 4]})
  assert {name: at.tolist() for name, at in found.folded.items()} == {
      'a[:, *]': [0], 'c[:, *]': [1, 4]}
  assert live['a[:, *]'] == 2 and live['c[:, *]'] == 3


def test_what_depends_on_inputs_is_no_constant():
  """A gate of inputs: alone in its batch it would look like a constant."""
  def fn(p, x):
    h = jax.nn.relu(x @ p['w1'] + p['b1'][None]) * x[:, :1]
    return h @ p['w2'] + p['b2'][None]
  params = weights({'w1': (4, 5), 'b1': (5,), 'w2': (5, 3), 'b2': (3,)})
  params['b1'] = jnp.ones(5)
  found, _ = folded_as_is(fn, params, data(1, 4), dead={'w1': [2]})
  assert not found.folded
  assert {why: at.tolist() for why, at in found.left['b1[*]'].items()} == {
      'no constant where w2 reads it': [2]}


@pytest.mark.parametrize('given', [
    np.ones(4, bool), np.zeros(4, bool), np.ones(1, bool),
    np.zeros(4, np.int32), np.full(4, 9, np.uint8), np.full(1, 9)])
def test_what_depends_on_bools_and_whole_numbers_that_are_alike_is_no_constant(
    given):
  """Masks and tokens: other batches have others."""
  def fn(p, x, given):
    h = x @ p['w1'] + p['b1'][None]
    h = (jnp.where(given[:, None], h, 0.) if given.dtype == bool
         else h + p['table'][given])
    return h @ p['w2'] + p['b2'][None]
  params = weights({'w1': (4, 5), 'b1': (5,), 'table': (10, 5), 'w2': (5, 3),
                    'b2': (3,)})
  found, _ = folded_as_is(
      fn, params, data(len(given), 4), given, dead={'w1': [2, 4]})
  assert not found.folded
  assert [at.tolist() for reasons in found.left.values()
          for at in reasons.values()] == [[2, 4]]


def test_tokens_that_a_relu_cuts_off_alike_make_no_constant():
  def fn(p, x, tokens):
    h = jax.nn.relu(x @ p['w1'] + p['table'][tokens])
    return h @ p['w2'] + p['b2'][None]
  params = weights({'w1': (4, 5), 'table': (10, 5), 'w2': (5, 3), 'b2': (3,)})
  params['table'] = params['table'].at[:3].set(-1.)
  for tokens in (np.zeros(4, np.int32), np.array([0, 2, 1, 0])):
    found, _ = folded_as_is(
        fn, params, data(4, 4), tokens, dead={'w1': [0, 2, 3]})
    assert not found.folded


@pytest.mark.parametrize('tokens', [
    np.full(4, 9, np.int32), np.array([0, 9, 3, 3], np.uint8)])
def test_whole_numbers_that_make_no_difference_are_in_bounds(tokens):
  """Indices past the end of a table give NaN, which would be no constant."""
  def fn(p, tokens):
    x = jnp.take(p['table'], tokens, axis=0)
    h = jax.nn.relu(x @ p['w1'] + p['b1'][None])
    return h @ p['w2'] + p['b2'][None]
  params = weights({'table': (10, 4), 'w1': (4, 5), 'b1': (5,), 'w2': (5, 3),
                    'b2': (3,)})
  found, live = folded_as_is(fn, params, tokens, dead={'w1': [1]})
  assert found.folded['b1[*]'].tolist() == [1] and live['b1[*]'] == 4


def tied(p, x):
  return jnp.tanh(x @ p['w'] + p['b'][None]) @ p['w'].T


def summed(p, x):
  h = jnp.tanh(x @ p['w'] + p['b'][None])
  return h @ p['out'] + h.sum(-1, keepdims=True)


def looped(p, x):
  def layer(h, _):
    return jnp.tanh(h @ p['w'] + p['b'][None]) @ p['out'], None
  return jax.lax.scan(layer, x, None, length=2)[0] @ p['end']


def heads(p, x):
  h = jnp.tanh(jnp.einsum('nd,dhk->nhk', x, p['w']) + p['b'][None])
  return jnp.einsum('nhk,hkd->nd', h, p['out'])


@pytest.mark.parametrize('fn, shapes, why', [
    (tied, {'w': (4, 5), 'b': (5,)}, None),
    (summed, {'w': (4, 5), 'b': (5,), 'out': (5, 2)}, 'read by reduce_sum'),
    (looped, {'w': (4, 5), 'b': (5,), 'out': (5, 4), 'end': (4, 2)},
     'out is used in scan'),
    (heads, {'w': (4, 3, 5), 'b': (3, 5), 'out': (3, 5, 2)}, 'each along')])
def test_the_rest_is_left_with_the_reason(fn, shapes, why):
  found, _ = folded_as_is(fn, weights(shapes), data(3, 4), dead={'w': [1]})
  assert not found.folded
  # Tied weights read what they make: such units are dead at once.
  assert bool(found.left) == bool(why)
  for reasons in found.left.values():
    assert why in next(iter(reasons))


def test_a_reader_that_is_used_twice_is_left():
  def fn(p, x):
    h = jnp.tanh(x @ p['w1'] + p['b1'][None])
    return h @ p['w2'] + p['b2'][None], (h * h) @ p['w2']
  params = weights({'w1': (4, 5), 'b1': (5,), 'w2': (5, 3), 'b2': (3,)})
  params['w1'] = params['w1'].at[:, 2].set(0.)
  ties = infer_ties(fn, params, data(3, 4), check=False)
  found = fold_constants(fn, params, ties, data(3, 4))
  assert found.params['w2'] is params['w2'] and not found.folded
  assert {why: at.tolist() for why, at in found.left['b1[*]'].items()} == {
      'w2 is used 2 times': [2]}


@pytest.mark.parametrize('shape', [(3, 3), (1, 3, 3), (1,), (3, 1)])
def test_a_vector_of_another_size_than_what_the_reader_gives_is_left(shape):
  def fn(p, x):
    h = jnp.tanh(x @ p['w1'] + p['b1'][None, None])
    return h @ p['w2'] + jnp.broadcast_to(p['pos'], (2, 3, 3))
  params = weights({'w1': (4, 5), 'b1': (5,), 'w2': (5, 3), 'pos': shape})
  found, live = folded_as_is(fn, params, data(2, 3, 4), dead={'w1': [2]})
  assert not found.folded and live['b1[*]'] == 5
  assert [*found.left['b1[*]']] == ['pos has no place for all that w2 gives']


def test_arrays_stay_what_they_are_and_it_prints():
  params = jax.tree.map(jnp.asarray, perceptron())
  params['w1'] = np.array(params['w1'])
  params['w1'][:, 1] = 0
  ties = infer_ties(mlp(jnp.tanh), params, data(3, 4), check=False)
  before = np.array(params['w2'])
  found = fold_constants(mlp(jnp.tanh), params, ties, data(3, 4))
  assert isinstance(found.params['w1'], np.ndarray)
  assert isinstance(found.params['w2'], jax.Array)
  assert found.params['w3'] is params['w3']
  np.testing.assert_array_equal(params['w2'], before)
  assert str(found).splitlines()[2:] == ['b1[*]      1  folded']


def test_ties_of_other_parameters_are_refused():
  tie = Tie(7, (Member('w9', 1, role='makes'), Member('w2', 0, role='reads')))
  with pytest.raises(ValueError, match="must have 'w9'"):
    fold_constants(mlp(jnp.tanh), perceptron(), [tie], data(3, 4))


def _scaled():
  def fn(p, x):
    for i in '12':
      h = (x @ p[f'w{i}'] - p[f'mean{i}'][None]) * jax.lax.rsqrt(
          p[f'var{i}'] + 1e-3)[None]
      x = jax.nn.relu(h * p[f'scale{i}'][None] + p[f'bias{i}'][None])
    return x @ p['out'] + p['out_bias'][None]
  shapes = {f'{name}{i}': (n,) for i, n in (('1', 7), ('2', 6))
            for name in ('mean', 'var', 'scale', 'bias')}
  params = weights({'w1': (4, 7), 'w2': (7, 6), 'out': (6, 3), 'out_bias': (3,),
                    **shapes})
  return fn, {name: jnp.abs(w) if 'var' in name else w
              for name, w in params.items()}


@pytest.mark.parametrize('bias', [0., 1.])
def test_units_of_zero_scale_are_constants_whatever_their_kernels_hold(bias):
  fn, params = _scaled()
  params['bias1'] = params['bias1'].at[jnp.array([0, 3])].set(bias)
  found, live = folded_as_is(fn, params, data(16, 4), dead={
      'scale1': [0, 3], 'scale2': [5]})
  assert {name: at.tolist() for name, at in found.folded.items()} == {
      'bias1[*]': [0, 3], 'bias2[*]': [5]}
  assert live['bias1[*]'] == 5 and live['bias2[*]'] == 5


def test_what_these_inputs_do_not_switch_on_is_no_constant():
  """Nor where biases are zero, as those of a fresh network are."""
  fn = mlp(jax.nn.relu)
  params = {name: jnp.zeros_like(w) if w.ndim == 1 else w
            for name, w in perceptron().items()}
  x = data(1, 4)
  ties = infer_ties(fn, params, x, check=False)
  assert (jax.nn.relu(x @ params['w1']) == 0.).any()
  found = fold_constants(fn, params, ties, x)
  assert not found.folded and not found.left


def test_many_units_that_a_relu_may_cut_off_are_no_constants():
  rng = np.random.default_rng(0)
  params = {'w1': rng.normal(size=(8, 2**14)).astype(np.float32),
            'b1': np.zeros(2**14, np.float32),
            'w2': np.ones((2**14, 3), np.float32),
            'b2': np.zeros(3, np.float32)}
  fn = lambda p, x: jax.nn.relu(x @ p['w1'] + p['b1'][None]) @ p['w2'] + (
      p['b2'][None])
  x = np.zeros((1, 8), np.float32)
  ties = infer_ties(fn, params, x, check=False)
  found = fold_constants(fn, params, ties, x)
  assert not found.folded and not found.left


@pytest.mark.parametrize('gathered', [False, True])
def test_devices_that_share_the_batch_or_kernels_fold_as_one(gathered):
  mesh = jax.make_mesh((2, 2), ('d', 'm'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  whole = lambda p: {**p, 'w2': jax.lax.all_gather(
      p['w2'], 'm', axis=1, tiled=True)} if gathered else p
  specs = {**dict.fromkeys(perceptron(), P()),
           'w2': P(None, 'm' if gathered else None)}
  fn = jax.shard_map(
      lambda p, x: mlp(jax.nn.relu)(whole(p), x), mesh=mesh,
      in_specs=(specs, P('d')), out_specs=P('d'),
      check_vma=not gathered)
  found, _ = folded_as_is(
      fn, perceptron(), data(4, 4), dead={'w1': [1, 4], 'w2': [0, 5]})
  # Each device has the second layer's units in an order of its own.
  assert sorted(at.tolist() for at in found.folded.values()) == [
      [0, 5], [1, 4]][gathered:]


def test_devices_that_share_units_leave_them():
  mesh = jax.make_mesh((2,), ('m',), axis_types=(jax.sharding.AxisType.Auto,))

  def fn(p, x):
    h = jnp.tanh(x @ p['w1'] + p['b1'][None])
    return jax.lax.psum(h @ p['w2'], 'm') + p['b2'][None]
  params = weights({'w1': (4, 8), 'b1': (8,), 'w2': (8, 3), 'b2': (3,)})
  fn = jax.shard_map(fn, mesh=mesh, in_specs=({
      'w1': P(None, 'm'), 'b1': P('m'), 'w2': P('m'), 'b2': P()}, P()),
                     out_specs=P())
  found, _ = folded_as_is(fn, params, data(3, 4), dead={'w1': [1, 5]})
  assert not found.folded
  reasons = [why for reasons in found.left.values() for why in reasons]
  assert reasons and all(
      'each along' in why or 'shared out' in why for why in reasons)
