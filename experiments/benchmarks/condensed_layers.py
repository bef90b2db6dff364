"""Layers with condensed weights and with other sparse ones, to be timed.

`condensed_matmul` is the command. This module has no flags, so that tests and
other programs can import it.
"""

import functools
import math
from typing import Any, Callable, NamedTuple

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
    timing.check(name, kind.product(x, kind.weights[0]),
                 np.asarray(x, np.float64) @ kind.exact)
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
