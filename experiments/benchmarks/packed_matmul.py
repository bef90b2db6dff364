"""Compares products with packed 2:4 weights and dense ones: time and bytes.

  python -m experiments.benchmarks.packed_matmul

On a Hopper GPU or a TPU the kernels are timed, on other devices the code that
XLA generates for packed weights. The weights are in several buffers that are
used in turns, more than a cache holds, as in the layers of a network. Ratios
are from one process.

The limit is the larger of two times: the time to read the packed weight once
at the measured bandwidth, and the time of the arithmetic at the measured rate.
Both are printed above the table and were measured in the same process, by
summing a large array and by a large dense product. A sparse tensor core may
need only half of the time of the arithmetic. Errors are relative, in the
Frobenius norm, against products in float32. cuSPARSELt is timed if torch sees a
GPU.
"""

import functools
import math
import os
import time
from typing import Any, Callable, Sequence

# Set before jax takes memory that torch also needs.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

from absl import app  # noqa: E402
from absl import flags  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.benchmarks import timing  # noqa: E402
import jaxsparse  # noqa: E402
from jaxsparse.packed.kernels import hopper  # noqa: E402

_SIZES = flags.DEFINE_list(
    'sizes', None, 'Outputs x inputs of weights, 4096x4096 for example.')
_TOKENS = flags.DEFINE_list('tokens', None, 'Rows of the other operand.')
_CACHE = flags.DEFINE_integer(
    'cache_mb', 256, 'Megabytes of the packed weights, used in turns.')
_TUNE = flags.DEFINE_bool(
    'tune', True, 'Tunes the kernel for each product first (Hopper GPUs).')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Medians are of this many runs.')

# Two CPU cores would take hours at the sizes of a large language model.
_ON_CPU = ['4096x4096', '14336x4096'], ['1', '8', '64']
_ON_DEVICES = (
    ['4096x4096', '8192x8192', '28672x8192', '8192x28672', '14336x4096'],
    ['1', '8', '16', '32', '64', '1024', '8192'])


def weights(outputs: int, inputs: int) -> list[tuple[jax.Array, Any]]:
  """Pairs of a dense 2:4 weight `[K, N]` and the same packed."""
  pattern = jaxsparse.nm(2, 4)
  layout = 'planar' if jaxsparse.packed.missing('gpu') else 'hopper'

  @jax.jit
  def make(key):
    w = jax.random.normal(key, (inputs, outputs), jnp.bfloat16)
    w = jnp.where(jaxsparse.select(jnp.abs(w), pattern), w, 0)
    return w, jaxsparse.packed.with_layout(jaxsparse.pack(w), layout)
  count = max(2, math.ceil(_CACHE.value * 1e6 / (1.125 * outputs * inputs)))
  return [make(key) for key in jax.random.split(jax.random.key(0), count)]


def each(product: Callable[..., jax.Array]) -> Callable[..., list[jax.Array]]:
  """A jitted function that multiplies pairs in turns, one launch for all."""
  return jax.jit(lambda xs, ws: [product(x, w) for x, w in zip(xs, ws)])


def bandwidth() -> float:
  """The measured bandwidth, in bytes per second."""
  x = jnp.ones(2**28 if jax.default_backend() == 'cpu' else 2**30, jnp.float32)
  return x.nbytes / _seconds(functools.partial(jax.jit(jnp.sum), x))


def arithmetic() -> float:
  """The floating-point operations per second of a dense bfloat16 product."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), jnp.bfloat16)
  return 2 * n**3 / _seconds(functools.partial(jax.jit(_dot), x, x))


def _dot(x: jax.Array, w: jax.Array) -> jax.Array:
  """The fastest dense product: CPUs are slow with a bfloat16 result."""
  return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)


def _seconds(f: Callable[[], Any]) -> float:
  return 1e-3 * timing.interleaved({'f': f}, _REPEATS.value)['f']


def cusparselt(dense: Sequence[jax.Array], tokens: int) -> float | None:
  """Milliseconds of NVIDIA's library, or `None` if torch sees no GPU."""
  try:
    import torch
  except ImportError:
    return None
  if not torch.cuda.is_available():
    return None
  on_gpu = lambda x: torch.from_numpy(np.array(x, np.float32)).to(
      'cuda', torch.bfloat16)
  packed = [torch._cslt_compress(on_gpu(w.T)) for w in dense]
  # It multiplies multiples of eight.
  x = torch.randn(dense[0].shape[0], -(-tokens // 8) * 8, device='cuda',
                  dtype=torch.bfloat16)
  try:
    best = torch._cslt_sparse_mm_search(packed[0], x)
  except RuntimeError as error:
    print(f'cuSPARSELt, {tokens} tokens: {error}')
    return None
  start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
  times = []
  for _ in range(_REPEATS.value + 1):  # The first warms up.
    start.record()
    for w in packed:
      torch._cslt_sparse_mm(w, x, alg_id=best)
    end.record()
    torch.cuda.synchronize()
    times.append(start.elapsed_time(end) / len(packed))
  return float(np.median(times[1:]))


def error(y: jax.Array, x: jax.Array, w: jax.Array) -> float:
  """The relative error of a product against the one in float32."""
  exact = jnp.dot(x.astype(jnp.float32), w.astype(jnp.float32),
                  precision='highest')
  return float(jnp.linalg.norm(y.astype(jnp.float32) - exact)
               / jnp.linalg.norm(exact))


def rows(size: str, tokens: Sequence[str], read: float, rate: float
         ) -> list[list[Any]]:
  """The table's rows of one size."""
  outputs, inputs = map(int, size.split('x'))
  dense, packed = zip(*weights(outputs, inputs))
  plain = each(_dot)
  result = []
  for t in map(int, tokens):
    keys = jax.random.split(jax.random.key(1), len(dense))
    xs = [jax.random.normal(key, (t, inputs), jnp.bfloat16) for key in keys]
    if _TUNE.value and packed[0].layout == 'hopper':
      hopper.tune(xs[0], packed[0].values, packed[0].positions,
                  clock=time.perf_counter)
    ours = each(jaxsparse.matmul)  # Traced after that.
    times = timing.interleaved({
        'dense': lambda xs=xs: plain(xs, dense),
        'packed': lambda xs=xs, ours=ours: ours(xs, packed)}, _REPEATS.value)
    times = {name: ms / len(dense) for name, ms in times.items()}
    limit = 1e3 * max(packed[0].nbytes / read, 2 * t * inputs * outputs / rate)
    theirs = cusparselt(dense, t)
    result.append([
        size, t, times['dense'], times['packed'],
        times['dense'] / times['packed'],
        '-' if theirs is None else times['dense'] / theirs, limit,
        times['packed'] / limit, packed[0].nbytes / dense[0].nbytes,
        f'{error(ours(xs[:1], packed[:1])[0], xs[0], dense[0]):.1e}',
        f'{error(plain(xs[:1], dense[:1])[0], xs[0], dense[0]):.1e}'])
  return result


def main(argv: list[str]) -> None:
  del argv
  sizes, tokens = _ON_CPU if jax.default_backend() == 'cpu' else _ON_DEVICES
  read, rate = bandwidth(), arithmetic()
  why = jaxsparse.packed.missing('gpu')
  print(timing.describe())
  print('Hopper kernel:', why or 'used')
  print(f'reads {1e-9 * read:,.0f} GB/s, computes {1e-12 * rate:,.2f} TFLOP/s')
  print()
  timing.print_table(
      ['outputs x inputs', 'tokens', 'dense, ms', 'packed, ms',
       'x faster than dense', 'cuSPARSELt, x faster', 'limit, ms', 'x limit',
       'bytes / dense', 'error', 'error of dense'],
      [row for size in _SIZES.value or sizes
       for row in rows(size, _TOKENS.value or tokens, read, rate)])


if __name__ == '__main__':
  app.run(main)
