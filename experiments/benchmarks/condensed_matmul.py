r"""Times products with condensed weights against dense and other sparse ones.

  python -m experiments.benchmarks.condensed_matmul

The masks consist of blocks of 1 x 16 outputs, chosen in the whole weight or
with the same number for every output (balanced), or have constant fan-in. Under
the mask of constant fan-in, all of these compute the same product: the dense
weight, the condensed one, `BCOO` and `BCSR` of `jax.experimental.sparse`, and
the CSR array of scipy, which runs outside of JAX on one core. `slimmed` layers
have lost 20% of their outputs, as SRigL's may; the others then read more
inputs, so that as many weights are kept.

Every product is compared with that of its dense weight before anything is
timed. `x dense` is the speed relative to `jnp.dot`; below 1 the dense product
is faster. Ratios are between medians of interleaved runs in one process.

Every product uses several weights in turns, more than a cache holds, as the
layers of a network do. BCOO is slow, so it has fewer repeats
(`--slow_repeats=0` leaves it out).

A layer of ViT-B/16, as in SRigL's paper (https://arxiv.org/abs/2305.02299), and
a square one:

  python -m experiments.benchmarks.condensed_matmul \
      --sizes=768x3072,2048x2048 --sparsities=0.9,0.95 --tokens=1,8,32 \
      --cache_mb=16
"""

import functools
import math
from typing import Any, Callable, NamedTuple

from absl import app
from absl import flags
import jax
from jax.experimental import sparse
import jax.numpy as jnp
import numpy as np
from scipy import sparse as scipy_sparse

from experiments.benchmarks import timing
from jaxsparse import patterns
from jaxsparse.masks import selection
from jaxsparse.packed.condensed import condense
from jaxsparse.packed.condensed import uncondense
from jaxsparse.packed.products import matmul

_SIZES = flags.DEFINE_list(
    'sizes', ['4096x4096'], 'Outputs x inputs of weights.')
_BLOCK = flags.DEFINE_integer('block', 16, 'Outputs of a block.')
_TOKENS = flags.DEFINE_list('tokens', ['1', '8', '32', '128'], 'Batch sizes.')
_SPARSITIES = flags.DEFINE_list(
    'sparsities', ['0.5', '0.8', '0.9', '0.95'], 'Fractions pruned.')
_CACHE = flags.DEFINE_integer(
    'cache_mb', 64, 'Megabytes of weights of a kind that are used in turns.')
_REPEATS = flags.DEFINE_integer('repeats', 11, 'Medians are of this many runs.')
_SLOW_REPEATS = flags.DEFINE_integer(
    'slow_repeats', 2, 'The same for BCOO; 0 leaves it out.')
_GRADIENTS = flags.DEFINE_bool(
    'gradients', False,
    'Times a product with its gradients to inputs and values instead.')

_SLOW = 'BCOO'
_SCIPY = 'CSR of scipy'
_DEAD = 0.2  # The share of outputs that slimmed layers have lost.


class Kind(NamedTuple):
  """Weights of one kind, and how they are multiplied."""
  weights: list[Any]  # Copies, because only their buffers must differ.
  exact: np.ndarray  # The weight `[inputs, outputs]`.
  product: Callable[[Any, Any], Any] = matmul  # Of inputs and a weight.


def kinds(outputs: int, inputs: int, sparsity: float, *, block: int = 16,
          megabytes: float = 64., slow: bool = True) -> dict[str, Kind]:
  """Returns weights of every kind, by the name of their row.

  Args:
    outputs: of the layer.
    inputs: of the layer.
    sparsity: the fraction of its weights that is pruned.
    block: outputs of a block.
    megabytes: how much the copies of a kind take at least.
    slow: whether there is BCOO.
  """
  @functools.partial(jax.jit, static_argnums=(0, 1))
  def pruned(pattern, outputs):
    w = jax.random.normal(jax.random.key(0), (inputs, outputs), jnp.float32)
    own = None if pattern.sparsity is not None else sparsity
    return jnp.where(selection.select(jnp.abs(w), pattern, own), w, 0)

  def kind(first, exact, product=matmul):
    nbytes = sum(a.nbytes for a in jax.tree.leaves(first))
    return Kind([first] + [
        jax.tree.map(jnp.copy, first)
        for _ in range(max(2, math.ceil(megabytes * 1e6 / nbytes)) - 1)],
                np.asarray(exact), product)

  def condensed(pattern):
    w = condense(pruned(pattern, outputs), pattern)
    return kind(w, uncondense(w))

  def with_fan_in(outputs, share):
    pattern = patterns.nm(round(share * inputs), inputs)
    w = pruned(pattern, outputs)
    return kind(w, w, jnp.dot), kind(condense(w, pattern), w)
  dense, fan_in = with_fan_in(outputs, 1 - sparsity)
  alive = round((1 - _DEAD) * outputs)
  slimmed, slimmed_fan_in = with_fan_in(
      alive, min((1 - sparsity) * outputs / alive, 1))
  coo = sparse.BCOO.fromdense(jnp.asarray(dense.exact.T))
  csr = scipy_sparse.csr_array(dense.exact.T)
  made = {
      'dense': dense,
      'blocks': condensed(patterns.block((1, block))),
      'blocks, balanced': condensed(patterns.block((1, block), balanced=True)),
      'constant fan-in': fan_in,
      'dense, slimmed': slimmed,
      'constant fan-in, slimmed': slimmed_fan_in,
      _SCIPY: Kind([csr.copy() for _ in fan_in.weights], dense.exact,
                   _scipy_product),
      'BCSR': kind(sparse.BCSR.from_bcoo(coo), dense.exact, _from_the_left)}
  if slow:
    made[_SLOW] = kind(coo, dense.exact, _from_the_left)
  return made


def rows(made: dict[str, Kind], tokens: int, *, repeats: int,
         slow_repeats: int = 2, gradients: bool = False) -> list[list[Any]]:
  """Returns the table's rows of one batch size.

  Args:
    made: weights of every kind.
    tokens: the batch size.
    repeats: medians are of this many runs,
    slow_repeats: and of this many for BCOO.
    gradients: whether to time products with their gradients; without scipy.

  Raises:
    ValueError: if a product is not that of its dense weight.
  """
  inputs = len(made['dense'].exact)
  x = jax.random.normal(jax.random.key(1), (tokens, inputs), jnp.float32)
  if gradients:
    made = {name: kind for name, kind in made.items() if name != _SCIPY}
  for name, kind in made.items():
    exact = np.asarray(x, np.float64) @ kind.exact
    y = np.asarray(kind.product(x, kind.weights[0]))
    error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    if y.shape != exact.shape or not error < 1e-5:
      raise ValueError(f'{name} is wrong: a relative error of {error}.')
  runs = {name: _each(name, kind, x, gradients) for name, kind in made.items()}
  slow = {_SLOW: runs.pop(_SLOW)} if _SLOW in runs else {}
  times = timing.interleaved(runs, repeats)
  times |= timing.interleaved(slow, slow_repeats) if slow else {}
  times = {name: ms / len(made[name].weights) for name, ms in times.items()}
  nbytes = {name: _bytes(kind.weights[0]) for name, kind in made.items()}
  return [[tokens, name, ms, times['dense'] / ms,
           nbytes[name] / nbytes['dense']] for name, ms in times.items()]


def _each(name: str, kind: Kind, x: jax.Array, gradients: bool
          ) -> Callable[[], list[Any]]:
  """Multiplies with weights in turns, one launch for all."""
  product = kind.product
  if name == _SCIPY:
    x = np.asarray(x)
    return lambda: [product(x, w) for w in kind.weights]
  if gradients:
    product = with_gradients(product)
  run = jax.jit(lambda x, ws: [product(x, w) for w in ws])
  return lambda: run(x, kind.weights)


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


def _from_the_left(x: jax.Array, w: Any) -> jax.Array:
  """A product with an array of `jax.experimental.sparse`, `[out, in]`."""
  return (w @ x.T).T


def _scipy_product(x: Any, w: scipy_sparse.csr_array) -> np.ndarray:
  """A product with one vector is faster than with a matrix of one column."""
  x = np.asarray(x)
  return (w @ x[0])[None] if len(x) == 1 else (w @ x.T).T


def _bytes(w: Any) -> int:
  arrays = ([w.data, w.indices, w.indptr]
            if isinstance(w, scipy_sparse.csr_array) else jax.tree.leaves(w))
  return sum(a.nbytes for a in arrays)


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe())
  print(f'float32, blocks of 1 x {_BLOCK.value}'
        f'{", with gradients" * _GRADIENTS.value}\n')
  table = []
  for size in _SIZES.value:
    outputs, inputs = map(int, size.split('x'))
    for sparsity in map(float, _SPARSITIES.value):
      made = kinds(
          outputs, inputs, sparsity, block=_BLOCK.value,
          megabytes=_CACHE.value, slow=bool(_SLOW_REPEATS.value))
      for tokens in map(int, _TOKENS.value):
        table += [[f'{outputs} x {inputs}', f'{100 * sparsity:g}%', *row]
                  for row in rows(
                      made, tokens, repeats=_REPEATS.value,
                      slow_repeats=_SLOW_REPEATS.value,
                      gradients=_GRADIENTS.value)]
  timing.print_table(['outputs x inputs', 'pruned', 'tokens', 'weight', 'ms',
                      'x dense', 'bytes / dense'], table)


if __name__ == '__main__':
  app.run(main)
