"""The best transposable mask, against all 90 (or 24) of every tile."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import nm
from jaxsparse import schedules
from jaxsparse import select
from jaxsparse.masks import _transposable
from jaxsparse.patterns import attention
from jaxsparse.patterns import with_sparsity
from tests._lib import method_table
from tests._lib.compiled import once

_T = nm(2, 4, transposable=True)
_KINDS = ('integers', 'normal', 'negative', 'constant', 'zeros', 'few', 'tiny',
          'huge')


@functools.cache
def all_masks(n):
  """`[masks, 4, 4]` with n in every line, those with lower indices first."""
  every = np.array(list(itertools.product((1, 0), repeat=16))).reshape(-1, 4, 4)
  return every[(every.sum(1) == n).all(-1) & (every.sum(2) == n).all(-1)]


def tiles_of(x):
  """`[rows, columns]` as `[tiles, 16]`, float64 and exact."""
  x = np.asarray(x).astype(np.float64)
  return x.reshape(x.shape[0] // 4, 4, -1, 4).swapaxes(1, 2).reshape(-1, 16)


def oracle(x, n=2):
  """The best mask of every tile, by trying all; the first of equals."""
  masks = all_masks(n).reshape(-1, 16)
  best = masks[np.argmax(tiles_of(x) @ masks.T, -1)]
  rows, columns = x.shape
  return best.reshape(rows // 4, columns // 4, 4, 4).swapaxes(1, 2).reshape(
      rows, columns).astype(bool)


def scores_of(kind, shape, dtype='float32', seed=0):
  rng = np.random.default_rng(seed)
  top = float(jnp.finfo(dtype).max)
  return jnp.asarray({
      'integers': lambda: rng.integers(-3, 4, shape),
      'normal': lambda: rng.standard_normal(shape),
      'negative': lambda: -rng.random(shape),
      'constant': lambda: np.full(shape, -2.5),
      'zeros': lambda: rng.choice([0., -0.], shape),
      'few': lambda: rng.random(shape) * (rng.random(shape) < .2),
      'tiny': lambda: rng.integers(0, 9, shape) * float(
          jnp.finfo(dtype).smallest_normal),
      'huge': lambda: rng.choice([-top, top, top / 2, 0.], shape),
  }[kind]().astype(dtype))


def assert_lines(mask, n=2):
  tiles = np.asarray(mask).reshape(
      mask.shape[0] // 4, 4, mask.shape[1] // 4, 4)
  assert (tiles.sum(1) == n).all() and (tiles.sum(3) == n).all()


def test_there_are_90_masks():
  assert [len(all_masks(n)) for n in (1, 2, 3)] == [24, 90, 24]


# What is kept.


@pytest.mark.parametrize('n, dtype', [
    (1, 'float32'), (2, 'float32'), (2, 'bfloat16'), (2, 'float16'),
    (3, 'float32')])
def test_the_highest_total_of_all_masks_is_kept(n, dtype):
  run = jax.jit(lambda x: select(x, nm(n, 4, transposable=True)))
  for kind in _KINDS:
    x = scores_of(kind, (24, 32), dtype)
    mask = np.asarray(run(x))
    assert mask.dtype == bool
    assert_lines(mask, n)
    got, best = (np.sum(tiles_of(x) * tiles_of(m), -1)
                 for m in (mask, oracle(x, n)))
    # Sixteen scores are off by half a step each, of 2^-19 of the highest.
    slack = 2.**-16 * np.abs(tiles_of(x)).max(-1)
    assert (got >= best - slack).all(), kind


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('n', [1, 2, 3])
def test_ties_go_to_the_lower_index(n, dtype):
  """Of equal totals: row by row, the mask that keeps the earlier places."""
  run = jax.jit(lambda x: select(x, nm(n, 4, transposable=True)))
  for kind in ('integers', 'constant', 'zeros', 'tiny', 'few'):
    x = scores_of(kind, (24, 32), dtype)
    if kind == 'few':
      x = jnp.ceil(x)
    np.testing.assert_array_equal(run(x), oracle(x, n), err_msg=kind)


def test_equal_scores_by_hand():
  for x in (jnp.zeros((4, 8)), jnp.full((4, 8), -jnp.inf),
            jnp.full((4, 8), jnp.inf), jnp.full((4, 8), jnp.nan)):
    np.testing.assert_array_equal(np.asarray(select(x, _T)).astype(int), [
        [1, 1, 0, 0] * 2, [1, 1, 0, 0] * 2, [0, 0, 1, 1] * 2, [0, 0, 1, 1] * 2])


@pytest.mark.parametrize('n', [1, 2, 3])
def test_nan_goes_first_then_minus_infinity(n):
  """NaN, infinities and numbers each decide only where all before tie."""
  rng = np.random.default_rng(0)
  x = rng.integers(-40, 40, (24, 32)).astype(np.float32)
  wild = rng.random(x.shape) < .3
  x[wild] = rng.choice([np.nan, -np.inf, np.inf], wild.sum())
  masks = all_masks(n).reshape(-1, 16)
  tiles = np.moveaxis(x.reshape(6, 4, 8, 4), 1, 2).reshape(-1, 16)
  columns = [
      (np.where(of(tiles), value(tiles), 0) @ masks.T) for of, value in (
          (np.isnan, lambda x: -np.ones_like(x)),
          (np.isinf, np.sign), (np.isfinite, lambda x: x))]
  order = np.lexsort((np.broadcast_to(np.arange(len(masks))[::-1],
                                      columns[0].shape), *columns[::-1]))
  want = masks[order[:, -1]].reshape(6, 8, 4, 4).swapaxes(1, 2)
  got = select(jnp.asarray(x), nm(n, 4, transposable=True))
  np.testing.assert_array_equal(got, want.reshape(x.shape).astype(bool))


def test_scores_may_be_float64():
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8)))
    assert x.dtype == jnp.float64
    np.testing.assert_array_equal(select(x, _T), oracle(x))
    assert select(x, _T, .25).sum() == 48


def test_a_tile_with_nan_elsewhere_changes_no_other():
  x = scores_of('normal', (8, 8))
  np.testing.assert_array_equal(
      select(x.at[0, 0].set(jnp.nan), _T)[4:], select(x, _T)[4:])


def test_masks_are_scale_free_and_those_of_the_transpose():
  run = jax.jit(lambda x: select(x, _T))
  x = scores_of('normal', (24, 32))
  mask = np.asarray(run(x))
  for scale in (2.**-100, 2.**100):
    np.testing.assert_array_equal(run(x * scale), mask)
  np.testing.assert_array_equal(run(x.T), mask.T)


@pytest.mark.parametrize('n', [1, 2, 3])
def test_both_ways_make_the_same_mask(n):
  """That of CPUs and GPUs, and that of TPUs, to the last tie."""
  ways = [jax.jit(functools.partial(way, n=n)) for way in (
      _transposable.by_halves, _transposable.by_products)]
  rng = np.random.default_rng(0)
  xs = [scores_of(kind, (24, 64)) for kind in _KINDS]
  # Totals that a float32 rounds in one order and not in another.
  xs += [jnp.asarray((rng.standard_normal((24, 64)) * 10.**rng.integers(
      -9, 9, (24, 64))).astype(np.float32)),
         jnp.where(xs[1] > 1, jnp.nan, jnp.where(xs[1] < -1, -jnp.inf, xs[1]))]
  for x in xs:
    first, second = (way(x.reshape(6, 4, 64).reshape(6, 4, 16, 4))
                     for way in ways)
    np.testing.assert_array_equal(first, second)


def test_tpus_multiply_and_others_do_not():
  def products(platform):
    exported = jax.export.export(
        jax.jit(lambda x: select(x, _T)), platforms=[platform])(
            jax.ShapeDtypeStruct((64, 64), jnp.float32))
    return exported.mlir_module().count('stablehlo.dot_general')
  assert products('tpu') and not products('cpu') and not products('cuda')


# Where.


def _along(mask, axis):
  """How many of every four neighbours along joined axes are kept."""
  joined = axis if isinstance(axis, tuple) else (axis,)
  mask = np.moveaxis(np.asarray(mask), joined, range(len(joined)))
  size = int(np.prod(mask.shape[:len(joined)]))
  return mask.reshape(size // 4, 4, -1).sum(1)


@pytest.mark.parametrize('shape, axis, other', [
    ((8, 12), -2, -1), ((8, 12), -1, -2), ((3, 3, 8, 4), -2, -1),
    ((3, 8, 12), -2, -1), ((3, 8, 4), -1, -2),
    ((8, 3, 4), -3, (-2, -1)),        # A query of three heads,
    ((8, 4, 2), -3, (-2, -1)),        # of short heads,
    ((8, 3, 2, 2), -4, (-3, -2, -1)),
    ((3, 4, 8), (-3, -2), -1),        # and outputs.
    ((4, 2, 8), (-3, -2), -1), ((4, 4, 2), (-2, -1), -3)])
def test_it_is_2_of_4_along_both_axes(shape, axis, other):
  pattern = nm(2, 4, axis=axis, transposable=True)
  assert pattern.group.sizes == ((axis, 4), (other, 4))
  x = scores_of('integers', shape)
  mask = np.asarray(select(x, pattern))
  assert (_along(mask, axis) == 2).all() and (_along(mask, other) == 2).all()
  # Tiles are those of a matrix, or of a stack of matrices.
  rows, columns = sorted(
      e if isinstance(e, tuple) else (e,) for e in (axis, other))
  rest = [a for a in range(-len(shape), 0) if a not in rows + columns]
  size = int(np.prod([shape[a] for a in rows]))
  for got, matrix in zip(*(
      np.transpose(x, [*rest, *rows, *columns]).reshape(
          int(np.prod([shape[a] for a in rest])), size, -1)
      for x in (mask, np.asarray(x)))):
    np.testing.assert_array_equal(got, oracle(matrix))


def test_attention_may_be_transposable():
  rules = attention(2, 4, transposable=True)
  assert [str(p) for p in rules.values()] == [
      'nm(2, 4, axis=-3, transposable=True)',
      'nm(2, 4, axis=(-3, -2), transposable=True)']


@pytest.mark.parametrize('axes', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('spec', [P('x', 'y'), P(None, 'x')], ids=str)
@pytest.mark.parametrize('way', ['default', 'products', 'under way'])
def test_no_weight_moves_on_a_mesh(axes, spec, way):
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(axes,) * 2)
  x = scores_of('integers', (64, 96))
  f = {'default': lambda x: select(x, _T),
       'under way': lambda x: select(x, _T, jnp.float32(.25)),
       'products': lambda x: _transposable.by_products(
           x.reshape(16, 4, 96).reshape(16, 4, 24, 4), 2)}[way]
  f = jax.jit(f)
  want = np.asarray(f(x))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    text = f.lower(sharded).compile().as_text()
    got = f(sharded)
    assert not any(word in text for word in (
        'all-gather', 'all-to-all', 'collective-permute'))
    np.testing.assert_array_equal(got, want)


def test_vmap_selects_row_by_row():
  xs = jnp.stack([scores_of('integers', (8, 8), seed=i) for i in range(3)])
  s = jnp.array([0., .25, .5])
  got = jax.jit(jax.vmap(lambda x, s: select(x, _T, s)))(xs, s)
  for i in range(3):
    np.testing.assert_array_equal(got[i], select(xs[i], _T, float(s[i])))


@pytest.mark.parametrize('shape', [(0, 8), (8, 0)])
def test_empty_weights_have_empty_masks(shape):
  assert select(jnp.zeros(shape), _T).shape == shape


# How many, while a schedule is under way.


def test_the_best_mask_comes_first_then_the_highest():
  x = scores_of('integers', (16, 8)) + 0.125 * scores_of('integers', (16, 8))
  tiles, best = tiles_of(x), tiles_of(oracle(x))
  run = jax.jit(lambda x, k: select(x, _T, 1. - k / 16.))
  for k in range(17):
    want = np.zeros_like(tiles)
    order = np.lexsort((np.tile(np.arange(16), (len(tiles), 1)), -tiles,
                        -best))
    np.put_along_axis(want, order[:, :k], 1., -1)
    np.testing.assert_array_equal(tiles_of(run(x, jnp.float32(k))), want)


def test_nan_under_way_is_last_of_the_others():
  x = scores_of('normal', (8, 8)).at[1, 2].set(jnp.nan)
  mask = select(x, _T, 1 / 16)
  assert not mask[1, 2] and (tiles_of(mask).sum(-1) == 15).all()


@pytest.mark.parametrize('n, kept', [(1, [16, 13, 10, 7, 4]),
                                     (2, [16, 14, 12, 10, 8]),
                                     (3, [16, 15, 14, 13, 12])])
def test_a_schedule_shrinks_masks_to_the_transposable_one(n, kept):
  rule = jaxsparse.prune({'.*': nm(n, 4, transposable=True)},
                         schedule=schedules.linear(0, 4))
  w = scores_of('normal', (16, 16))
  state, masks, update = jax.jit(rule.init)(w), [], jax.jit(rule.update)
  for want in kept:
    masks.append(tiles_of(state.masks))
    assert (masks[-1].sum(-1) == want).all()
    _, state = update(w, state, w)
  assert all((a >= b).all() for a, b in zip(masks, masks[1:]))
  np.testing.assert_array_equal(state.masks, oracle(jnp.abs(w), n))


@pytest.mark.parametrize('flow', [
    jaxsparse.hard, jaxsparse.ste, jaxsparse.sr_ste])
def test_it_trains_in_one_compilation(flow):
  tx = method_table.wrap(optax.adam(1e-2), jaxsparse.prune(
      {'w.*': _T, '.*': None}, schedule=schedules.linear(0, 3)), flow())
  params = {'b': jnp.zeros(8), 'w1': scores_of('normal', (16, 8)),
            'w2': scores_of('normal', (4, 4), seed=1)}

  @once
  def step(params, state):
    sparse = jaxsparse.sparse_params(params, state)
    grads = jax.tree.map(lambda w: jnp.sin(9. * w), sparse)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  state = jax.jit(tx.init)(params)
  for _ in range(5):
    params, state = step(params, state)
  masks = jaxsparse.get_masks(state)
  assert masks['b'] is None
  for name in ('w1', 'w2'):
    assert_lines(masks[name])
    sparse = jaxsparse.sparse_params(params, state)[name]
    np.testing.assert_array_equal(
        masks[name], oracle(jnp.abs(params[name])))
    assert not np.asarray(sparse)[~np.asarray(masks[name])].any()


def test_an_exchange_keeps_lines():
  """`prune_and_grow` drops from a mask and grows to another, both of lines."""
  rule = jaxsparse.prune_and_grow(
      {'.*': _T}, sparsity=.5, grow=jaxsparse.gradient(),
      when=schedules.every(1), fraction=.5)
  w, g = (scores_of('normal', (16, 24), seed=i) for i in range(2))
  state = jax.jit(rule.init)(w)
  before = np.asarray(state.masks)
  masks, _ = jax.jit(rule.update)(g, state, w * before.astype(np.float32))
  assert_lines(before)
  assert_lines(masks)
  both = (before & np.asarray(masks)).sum()
  assert before.sum() / 2 <= both < before.sum()


def test_one_tile_does_not_compete_with_other_weights():
  """Weights of one tile, that `select_each` might take for whole ones."""
  params = {'a': scores_of('normal', (4, 4)), 'b': scores_of('normal', (4, 4))}
  masks = jaxsparse.prune(
      {'a': _T, 'b': jaxsparse.unstructured()},
      distribution=jaxsparse.global_threshold(.5)).init(params).masks
  np.testing.assert_array_equal(masks['a'], oracle(jnp.abs(params['a'])))
  assert masks['b'].sum() == 8


def test_a_mask_inside_scan():
  xs = jnp.stack([scores_of('integers', (8, 8), seed=i) for i in range(3)])
  masks = jax.jit(lambda xs: lax.map(lambda x: select(x, _T), xs))(xs)
  for x, mask in zip(xs, masks):
    np.testing.assert_array_equal(mask, oracle(x))


# Errors.


def test_more_than_lines_allow_is_an_error():
  message = r'(?s)nm\(2, 4, transposable=True\).*at most 0.5, got 0.75.*nm\(1'
  with pytest.raises(ValueError, match=message):
    select(jnp.ones((4, 4)), _T, .75)
  with pytest.raises(ValueError, match='at most 0.5'):
    with_sparsity(_T, .6)


@pytest.mark.parametrize('shape, message', [
    ((8, 6), r'(?s)axis -1 to be a multiple of 4.*\(8, 6\).*another axis, or'),
    ((6, 8), r'(?s)axis -2 to be a multiple of 4.*\(6, 8\)'),
    ((8,), r'(?s)needs axis -2.*\(8,\).*dense')])
def test_a_tile_that_does_not_fit_is_an_error(shape, message):
  with pytest.raises(ValueError, match=message) as error:
    select(jnp.ones(shape), _T)
  assert 'group size' not in str(error.value)


def test_an_order_of_channels_is_not_sought_for_two_axes():
  w = np.ones((8, 8), np.float32)
  message = r'(?s)N:M along two.*Write nm\(2, 4, axis=-2\)'
  with pytest.raises(ValueError, match=message):
    jaxsparse.units.find_permutation(w, _T)
  params = {'w1': w, 'w2': w}
  ties = jaxsparse.infer_ties(
      lambda p, x: jax.nn.relu(x @ p['w1']) @ p['w2'], params, w)
  with pytest.raises(ValueError, match='(?s)^w2: .*' + message[4:]):
    jaxsparse.find_permutations(params, ties, {'w2': _T})


def test_recipes_take_it_unless_groups_grow():
  rules = {'.*': _T}
  with pytest.raises(ValueError, match='(?s)larger groups.*4 x 4.*stepwise'):
    jaxsparse.methods.sdgf_geometric(rules, 10)
  rule = jaxsparse.methods.sdgf_stepwise(
      rules, 10, dense_steps=1, fine_tune_steps=3).rule
  w, kept = scores_of('normal', (8, 8)), []
  state, update = jax.jit(rule.init)(w), jax.jit(rule.update)
  for _ in range(8):
    kept.append(int(state.masks.sum()) // 4)
    _, state = update(w, state, w)
  assert kept == [16, 12, 12, 12, 8, 8, 8, 8]
  trained = jaxsparse.methods.top_kast({'.*': nm(
      1, 4, transposable=True)}, 10, every=1).rule.init(w)
  assert int(trained.masks.sum()) == 16 and int(trained.backward.sum()) == 32
  assert not (np.asarray(trained.masks) & ~np.asarray(trained.backward)).any()
