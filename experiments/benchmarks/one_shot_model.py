"""What one-shot pruning of a whole transformer takes, and statistics of inputs.

  python -m experiments.benchmarks.one_shot_model

12 blocks of a decoder without biases, 9.4M weights in kernels of width 256, and
4 batches of 8 x 128 tokens. The first table has what statistics cost beside a
forward pass, in turns in one process; the second seconds of `one_shot`, the
first time, with compiling, and the second. The goals: norms at most 1.05 of a
forward pass, any method under 60 s.
"""

import functools
import time
from typing import Any

from absl import app
from absl import flags
import jax
from jax import lax
import jax.numpy as jnp

from experiments.benchmarks import timing
import jaxsparse
from jaxsparse import calibration

_WIDTH = flags.DEFINE_integer('width', 256, 'Of the residual stream.')
_DEPTH = flags.DEFINE_integer('depth', 12, 'Blocks.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Of each function.')
_SCANNED = flags.DEFINE_bool('scanned', False, 'Blocks are layers of a scan.')
_HEADS = 4


def block(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
  """Attention and an MLP.

  Args:
    x: `[batch, time, width]`.
    p: kernels.
  """
  n, t, width = x.shape
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  q, k, v = ((h @ p[name]).reshape(n, t, _HEADS, -1) for name in 'qkv')
  scores = jnp.einsum('nthd,nshd->nhts', q, k) / (width / _HEADS)**.5
  scores = jnp.where(jnp.tri(t, dtype=bool), scores, -jnp.inf)
  a = jnp.einsum('nhts,nshd->nthd', jax.nn.softmax(scores), v)
  x = x + a.reshape(x.shape) @ p['out']
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x + jax.nn.gelu(h @ p['up']) @ p['down']


def model(width: int, depth: int, scanned: bool) -> tuple[Any, Any, list[Any]]:
  """Returns the function, its parameters and batches.

  Args:
    width: of the residual stream.
    depth: how many blocks.
    scanned: whether they are layers of a scan.
  """
  keys = iter(jax.random.split(jax.random.key(0), 6 * depth + 6))
  shapes = {**dict.fromkeys(('q', 'k', 'v', 'out'), (width, width)),
            'up': (width, 4 * width), 'down': (4 * width, width)}
  draw = lambda shape: jax.random.normal(next(keys), shape) / shape[0]**.5
  layers = [jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
            for _ in range(depth)]
  if scanned:
    layers = jax.tree.map(lambda *ws: jnp.stack(ws), *layers)

  def apply(params, x):
    if scanned:
      return lax.scan(lambda x, p: (block(x, p), ()), x, params)[0]
    return functools.reduce(block, params, x)
  return apply, layers, [
      jax.random.normal(next(keys), (8, 128, width)) for _ in range(4)]


def main(argv: list[str]) -> None:
  del argv
  print(f'{timing.describe()}\n')
  apply, params, batches = model(_WIDTH.value, _DEPTH.value, _SCANNED.value)
  functions = {
      'forward pass': apply,
      'with norms': lambda p, x: (apply(p, x), calibration.input_statistics(
          apply, p, x)),
      'with moments': lambda p, x: (apply(p, x), calibration.input_statistics(
          apply, p, x, kind='moment'))}
  made = {name: timing.compiled(f, params, batches[0])
          for name, f in functions.items()}
  times = timing.interleaved(
      {name: functools.partial(f, params, batches[0])
       for name, (_, f) in made.items()}, _REPEATS.value)
  timing.print_table(
      [f'{_DEPTH.value} blocks of width {_WIDTH.value}', 'ms', 'x', 'goal',
       'peak MB', 'compiling, s'],
      [[name, ms, ms / times['forward pass'],
        '<= 1.05' if name == 'with norms' else '',
        timing.peak_megabytes(made[name][1]), made[name][0]]
       for name, ms in times.items()])
  print()
  rows = []
  half = jaxsparse.unstructured(.5)
  for method in ('magnitude', 'wanda', 'sparsegpt', 'admm'):
    seconds = []
    for _ in range(2):
      start = time.perf_counter()
      jax.block_until_ready(
          jaxsparse.one_shot(apply, params, batches, half, method))
      seconds.append(time.perf_counter() - start)
    rows.append([method, *seconds, '<= 60'])
  timing.print_table(['one_shot', 'first, s', 'again, s', 'goal'], rows)


if __name__ == '__main__':
  app.run(main)
