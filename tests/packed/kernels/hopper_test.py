"""The Hopper kernel without the GPU: its instruction is emulated in numpy.

What the emulation reads is what the kernel would: the layout that the package
packs. The rest of the kernel, which brings operands and takes results away, is
run by Pallas' interpreter where jax has one, with a stand-in for the
instruction; and all of it is lowered for CUDA.
"""

import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.packed import layout24
from jaxsparse.packed.kernels import hopper
from tests._lib.packed import on_gpu


def sparse(k, n, dtype, seed=0):
  """A weight with 0, 1 or 2 nonzeros in every four rows, in float64."""
  rng = np.random.default_rng(seed)
  rank = rng.random((k // 4, 4, n)).argsort(1).argsort(1)
  kept = rank < rng.integers(0, 3, (k // 4, 1, n))
  w = np.where(kept, rng.normal(size=kept.shape), 0).reshape(k, n)
  return np.float64(jnp.asarray(w, dtype))


def tokens(t, k, dtype):
  rng = np.random.default_rng(1)
  return np.float64(jnp.asarray(rng.normal(size=(t, k)), dtype))


def packed(w, dtype):
  """Values and positions in the Hopper layout."""
  made = layout24.with_layout(layout24.pack(jnp.asarray(w, dtype)), 'hopper')
  return made.values, made.positions


def decompressed(values, positions):
  """`[N', K']` as `wgmma.mma_async.sp` sees it, by what its threads supply.

  One instruction has 64 outputs and 32 rows of w. Thread 32 w + 4 g + c gives
  eight codes of four bits: of outputs 16 w + g, then of 16 w + g + 8, each for
  four groups, the first four if c is even, the last four if it is odd. The
  selector takes the words of c = 0 and 1, or those of 2 and 3.
  """
  values = np.float64(values)
  words = np.asarray(positions).view(np.uint32)
  outputs, half = values.shape
  w = np.zeros((outputs, 2 * half))
  blocks, steps = range(outputs // 64), range(half // 16)
  for block, step, thread in itertools.product(blocks, steps, range(128)):
    warp, lane = divmod(thread, 32)
    g, c = divmod(lane, 4)
    selector, held = step % 2, step // 2 % 2
    if c // 2 != selector:
      continue
    word = int(words[block, step // 4, 2 * thread + held])
    for code in range(8):
      output = 64 * block + 16 * warp + g + 8 * (code // 4)
      group = 8 * step + 4 * (c % 2) + code % 4
      first, second = (word >> 4 * code) & 3, (word >> (4 * code + 2)) & 3
      assert first < second, 'the instruction wants ascending positions'
      w[output, 4 * group + first] = values[output, 2 * group]
      w[output, 4 * group + second] = values[output, 2 * group + 1]
  return w


@pytest.mark.parametrize('k, n, dtype', [
    (256, 128, jnp.bfloat16), (516, 70, jnp.bfloat16), (1024, 192, jnp.float16)
])
def test_the_instruction_reads_the_layout_that_is_packed(k, n, dtype):
  w, x = sparse(k, n, dtype), tokens(3, k, dtype)
  seen = decompressed(*packed(w, dtype))
  y = np.pad(x, ((0, 0), (0, seen.shape[1] - k))) @ seen.T
  np.testing.assert_array_equal(y[:, :n], x @ w)
  assert not y[:, n:].any()


_SIZES = st.tuples(
    st.integers(1, 20_000), st.integers(1, 120).map(lambda i: 256 * i),
    st.integers(1, 240).map(lambda i: 128 * i), st.integers(2, 150))


@settings(max_examples=200, deadline=None)
@given(_SIZES)
def test_what_is_chosen_fits(sizes):
  tokens, features, outputs, num_sms = sizes
  config = hopper.choose(tokens, features, outputs, num_sms)
  assert hopper.fits(config, features, outputs)
  assert outputs % (config.rows * config.warpgroups * config.cluster) == 0
  assert features % (config.depth * config.split) == 0
  assert config.columns < 2 * max(tokens, 8) or config.columns == 128


def test_a_config_that_does_not_fit_is_told():
  good = hopper.Config(128, 2, 128, 128, 3)
  assert hopper.fits(good, 4096, 4096)
  for bad in (dict(stages=4), dict(columns=256), dict(columns=24),
              dict(depth=64), dict(split=3), dict(rows=32), dict(cluster=3)):
    assert not hopper.fits(good._replace(**bad), 4096, 4096), bad
  assert not hopper.fits(good, 4096, 4096 + 128)
  assert not hopper.fits(good._replace(cluster=2), 4096, 256 * 3)


def shapes(t, k, n, dtype=jnp.bfloat16):
  return (jax.ShapeDtypeStruct((t, k), dtype),
          jax.ShapeDtypeStruct((n, k // 2), dtype),
          jax.ShapeDtypeStruct((n // 64, k // 128, 256), jnp.int32))


@pytest.mark.parametrize('t, dtype, out_dtype', [
    (5, jnp.bfloat16, None), (300, jnp.float16, jnp.float32)])
def test_it_lowers_for_cuda_on_any_machine(t, dtype, out_dtype):
  @jax.jit
  def f(*args):
    return hopper.matmul(*args, out_dtype=out_dtype)
  exported = jax.export.export(f, platforms=['cuda'])(
      *shapes(t, 768, 640, dtype))
  assert 'custom_call @mosaic_gpu' in exported.mlir_module()
  [y] = exported.out_avals
  assert (y.shape, y.dtype) == ((t, 640), out_dtype or dtype)


def test_a_split_contraction_is_summed_in_float32():
  config = hopper.choose(8, 1024, 128)._replace(split=2)
  with on_gpu():
    jaxpr = jax.make_jaxpr(lambda *args: hopper.matmul(*args, config=config))(
        *shapes(8, 1024, 128))
  assert 'f32[2,8,128]' in str(jaxpr)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16


def stand_in(acc, w_s, e_s, x_s, config, dtype):
  """`_multiply` in jax.numpy; by the two codes of every word at a time."""
  blocks, halves = config.rows // 64, config.depth // 128
  words = e_s[...].reshape(blocks, halves, 4, 8, 4, 2)  # b, d, w, g, c, held
  codes = jnp.stack([(words >> 4 * i) & 15 for i in range(8)], -1).reshape(
      blocks, halves, 4, 8, 4, 2, 2, 4)  # ..., upper, four
  codes = codes.transpose(0, 2, 6, 3, 1, 5, 4, 7).reshape(config.rows, -1, 1)
  values = w_s[...].astype(jnp.float32).reshape(config.rows, -1, 2)
  place = jnp.broadcast_to(jnp.arange(4), codes.shape[:2] + (4,))
  w = sum(jnp.where((codes >> 2 * i) & 3 == place, values[..., i:i + 1], 0)
          for i in range(2))
  return acc + w.reshape(config.rows, -1) @ x_s[...].astype(jnp.float32).T


@pytest.mark.parametrize('t, n, num_sms, config', [
    # More tiles than blocks, more steps than stages, tiles of both kinds.
    (20, 384, 2, hopper.Config(64, 2, 8, 128, 3)),
    (16, 256, 3, hopper.Config(64, 1, 8, 256, 2, split=2)),
    # Fewer steps than stages; blocks in pairs.
    (16, 512, 2, hopper.Config(128, 2, 16, 128, 5, cluster=2, band=1))])
def test_every_tile_is_brought_multiplied_and_stored_once(
    t, n, num_sms, config, monkeypatch):
  plgpu = pytest.importorskip('jax.experimental.pallas.mosaic_gpu')
  if not hasattr(plgpu, 'force_gpu_interpret_mode'):
    pytest.skip('this jax does not interpret GPU kernels')
  monkeypatch.setattr(hopper, '_multiply', stand_in)
  monkeypatch.setattr(hopper, '_num_sms', lambda: num_sms)
  w, x = sparse(512, n, jnp.bfloat16), tokens(t, 512, jnp.bfloat16)
  with plgpu.force_gpu_interpret_mode():
    y = jax.jit(lambda *args: hopper.matmul(
        *args, config=config, out_dtype=jnp.float32))(
            jnp.asarray(x, jnp.bfloat16), *packed(w, jnp.bfloat16))
  np.testing.assert_allclose(np.float64(y), x @ w, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int8])
def test_other_dtypes_are_left_to_xla(dtype):
  with pytest.raises(NotImplementedError, match='bfloat16 and float16, not'):
    hopper.check((4, 256), dtype, (128, 128))


def test_two_dtypes_are_left_to_xla():
  x, values, positions = shapes(4, 256, 128)
  values = values.update(dtype=jnp.float16)
  with pytest.raises(NotImplementedError, match='two of a dtype'):
    jax.eval_shape(hopper.matmul, x, values, positions)


def test_no_tokens_are_left_to_xla():
  with pytest.raises(NotImplementedError, match='empty'):
    hopper.check((0, 256), jnp.bfloat16, (128, 128))


def test_shapes_that_do_not_belong_together_are_errors():
  for x, values in (((4, 512), (128, 128)), ((4, 128), (128, 64)),
                    ((4, 256), (64, 128))):
    with pytest.raises(ValueError, match='multiple of 256'):
      hopper.check(x, jnp.bfloat16, values)
  x, values, positions = shapes(4, 256, 128)
  with pytest.raises(ValueError, match='Hopper layout'):
    jax.eval_shape(hopper.matmul, x, values,
                   positions.update(shape=(2, 256, 2)))
  with pytest.raises(ValueError, match='does not divide'):
    jax.eval_shape(
        lambda *args: hopper.matmul(
            *args, config=hopper.Config(128, 2, 128, 128, 3)),
        *shapes(4, 256, 128))


def test_a_jax_that_moved_its_private_modules_is_refused(monkeypatch):
  from jax.experimental.mosaic.gpu import mma_utils
  monkeypatch.delattr(mma_utils, 'encode_descriptor')
  with pytest.raises(NotImplementedError, match='encode_descriptor.*xla'):
    jax.eval_shape(hopper.matmul, *shapes(4, 256, 128))


def test_an_old_jax_is_refused(monkeypatch):
  monkeypatch.setattr(jax, '__version_info__', (0, 8, 2))
  with pytest.raises(NotImplementedError, match='0.10 or later'):
    hopper.check((4, 256), jnp.bfloat16, (128, 128))


def test_only_hopper_is_available():
  if jax.default_backend() == 'cpu':
    assert 'cpu' in hopper.available()
  with on_gpu():
    assert hopper.available() is None
  with on_gpu('NVIDIA A100', num_cores=108):
    assert 'A100' in hopper.available()


def test_what_tune_found_is_used_from_then_on(monkeypatch):
  monkeypatch.setattr(hopper, '_TUNED', {})
  candidates = hopper._candidates(3, 1024, 256, hopper._num_sms())
  now, used = 0., []

  def product(x, values, positions, out_dtype, config, num_sms):
    nonlocal now
    used.append(config)
    now = 1. + abs(candidates.index(config) - 2)  # The third is the fastest.
    return jnp.zeros((config.split, x.shape[0], values.shape[0]), out_dtype)

  def clock():
    clock.time += now
    return clock.time
  clock.time = 0.
  monkeypatch.setattr(hopper, '_product', product)
  x, values, positions = (
      jnp.zeros(s.shape, s.dtype) for s in shapes(3, 1024, 256))
  best = hopper.tune(
      x, values, positions, clock=clock, candidates=4, repeats=2)
  assert best == candidates[2]
  assert set(used) == set(candidates[:4])
  hopper.matmul(x, values, positions)
  assert used[-1] == best
  hopper.matmul(x[:2], values, positions)
  assert used[-1] == hopper.choose(2, 1024, 256, hopper._num_sms())
