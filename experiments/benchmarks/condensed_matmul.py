"""Times products with condensed weights against dense and other sparse ones.

  python -m experiments.benchmarks.condensed_matmul

The masks consist of blocks of 1 x 16 outputs, chosen in the whole weight or
with the same number for every output (balanced), or have constant fan-in.
`BCOO` and `BCSR` come from `jax.experimental.sparse` and use the balanced mask.
`x dense` is the speed relative to `jnp.dot`; below 1 the dense product is
faster. Ratios are between medians of interleaved runs in one process.

Every product uses several weights in turns, more than a cache holds, as the
layers of a network do. BCOO and BCSR are slow, so they use one weight and fewer
repeats (`--slow_repeats=0` leaves them out).
"""

import functools
import math
from typing import Any, Callable

from absl import app
from absl import flags
import jax
from jax.experimental import sparse
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from jaxsparse import patterns
from jaxsparse.masks import selection
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.products import matmul

_SIZE = flags.DEFINE_integer('size', 4096, 'Inputs and outputs of weights.')
_BLOCK = flags.DEFINE_integer('block', 16, 'Outputs of a block.')
_TOKENS = flags.DEFINE_list('tokens', ['1', '8', '32', '128'], 'Batch sizes.')
_SPARSITIES = flags.DEFINE_list(
    'sparsities', ['0.5', '0.8', '0.9', '0.95'], 'Fractions pruned.')
_CACHE = flags.DEFINE_integer(
    'cache_mb', 64, 'Megabytes of weights of a kind that are used in turns.')
_REPEATS = flags.DEFINE_integer('repeats', 11, 'Medians are of this many runs.')
_SLOW_REPEATS = flags.DEFINE_integer(
    'slow_repeats', 2, 'The same for BCOO and BCSR; 0 leaves them out.')
_GRADIENTS = flags.DEFINE_bool(
    'gradients', False,
    'Times a product with its gradients to inputs and values instead.')

_BALANCED = 'blocks, balanced'
# Other than `matmul`; a sparse array is the left factor where it can be one.
_PRODUCTS = {'dense': jnp.dot} | dict.fromkeys(
    ('BCOO', 'BCSR'), lambda x, w: (w @ x.T).T)


def weights(sparsity: float) -> dict[str, list[Any]]:
  """Weights of every kind; those of `jax.experimental.sparse` are transposed.

  The weights of a kind are copies, because only their buffers must differ.
  """
  size, blocks = _SIZE.value, (1, _BLOCK.value)
  written = {
      'blocks': patterns.block(blocks),
      _BALANCED: patterns.block(blocks, balanced=True),
      'constant fan-in': patterns.nm(round((1 - sparsity) * size), size)}

  @functools.partial(jax.jit, static_argnums=0)
  def pruned(pattern):
    w = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    own = None if pattern.sparsity is not None else sparsity
    return jnp.where(selection.select(jnp.abs(w), pattern, own), w, 0)
  made = {}
  for name, pattern in written.items():
    first = condense(pruned(pattern), pattern)
    made[name] = [first] + [
        jax.tree.map(jnp.copy, first) for _ in range(copies(first.nbytes) - 1)]
  if _SLOW_REPEATS.value:
    made['BCOO'] = [sparse.BCOO.fromdense(uncondense(made[_BALANCED][0]).T)]
    made['BCSR'] = [sparse.BCSR.from_bcoo(made['BCOO'][0])]
  return made


def copies(nbytes: int) -> int:
  """The number of weights of a size that exceeds a cache."""
  return max(2, math.ceil(_CACHE.value * 1e6 / nbytes))


def each(product: Callable[..., jax.Array], x: jax.Array, ws: list[Any]
         ) -> Callable[[], list[Any]]:
  """Multiplies with weights in turns, one launch for all."""
  if _GRADIENTS.value:
    product = with_gradients(product)
  run = jax.jit(lambda x, ws: [product(x, w) for w in ws])
  return lambda: run(x, ws)


def with_gradients(product: Callable[..., jax.Array]
                   ) -> Callable[..., tuple[Any, ...]]:
  """The product, and the gradients of half of the sum of its squares."""
  def run(x, w):
    leaves, structure = jax.tree.flatten(w)
    is_float = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]

    def of(x, floats):
      floats = iter(floats)
      return product(x, structure.unflatten(
          [next(floats) if f else a for f, a in zip(is_float, leaves)]))
    y, back = jax.vjp(of, x, [a for f, a in zip(is_float, leaves) if f])
    return y, back(y)
  return run


def rows(tokens: int, kinds: dict[str, list[Any]]) -> list[list[Any]]:
  """The table's rows of one batch size."""
  x = jax.random.normal(jax.random.key(1), (tokens, _SIZE.value), jnp.float32)
  runs = {name: each(_PRODUCTS.get(name, matmul), x, ws)
          for name, ws in kinds.items()}
  slow = {name: runs.pop(name) for name in ('BCOO', 'BCSR') if name in runs}
  times = timing.interleaved(runs, _REPEATS.value)
  times |= timing.interleaved(slow, _SLOW_REPEATS.value) if slow else {}
  times = {name: ms / len(kinds[name]) for name, ms in times.items()}
  exact = np.asarray(x, np.float64) @ np.asarray(
      uncondense(kinds[_BALANCED][0]), np.float64)
  for name in {_BALANCED, *slow}:
    y = _PRODUCTS.get(name, matmul)(x, kinds[name][0])
    error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    if error > 1e-5:
      raise ValueError(f'{name} is wrong: a relative error of {error}.')
  nbytes = {name: sum(a.nbytes for a in jax.tree.leaves(ws[0]))
            for name, ws in kinds.items()}
  return [[tokens, name, ms, times['dense'] / ms,
           nbytes[name] / nbytes['dense']] for name, ms in times.items()]


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe())
  print(f'{_SIZE.value} x {_SIZE.value}, float32, blocks of 1 x {_BLOCK.value}'
        f'{", with gradients" * _GRADIENTS.value}\n')
  size = (_SIZE.value, _SIZE.value)
  dense = [jax.random.normal(key, size, jnp.float32) for key in
           jax.random.split(jax.random.key(2), copies(4 * math.prod(size)))]
  table = []
  for sparsity in map(float, _SPARSITIES.value):
    kinds = {'dense': dense} | weights(sparsity)
    table += [[f'{100 * sparsity:g}%', *row] for tokens in _TOKENS.value
              for row in rows(int(tokens), kinds)]
  timing.print_table(['pruned', 'tokens', 'weight', 'ms', 'x dense',
                      'bytes / dense'], table)


if __name__ == '__main__':
  app.run(main)
