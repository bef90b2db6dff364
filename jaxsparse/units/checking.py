"""`check_ties`: a test that permuting units does not change the function."""

import functools
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import constants
from jaxsparse.graph import tracing
from jaxsparse.units import reordering
from jaxsparse.units.ties import as_ties
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

_ROUNDS = 3  # Rounds with different parameters and permutations.


@arguments.checked(seed=arguments.whole(0))
def check_ties(fn: Callable[..., Any], params: ArrayTree,
               ties: Ties | Sequence[Tie], *inputs: Any, seed: int = 0
               ) -> float:
  """Permutes all free ties at random and compares the function's outputs.

  The check has three rounds. Each round uses other parameters near the given
  ones, so that no two units are equal (the units of fresh biases and norms are
  equal):

    w * u + 0.1 rms(w) * z,  u from U(0.5, 1.5) and z from N(0, 1).

  The term with `z` is left out if all weights are positive, like variances, and
  the parameter is 0.1 z if all weights are zero. A permutation is one cycle, so
  every unit moves. Fixed ties are not checked. Parameters and inputs of 16 bits
  are converted to float32.

  Args:
    fn: a function of parameters and inputs; it is compiled once.
    params: the parameters.
    ties: the ties to check.
    *inputs: the other arguments of `fn`.
    seed: the seed of the permutations.

  Returns:
    The largest difference, relative to the largest output.

  Raises:
    ValueError: if outputs differ by more than the square root of the precision
      of the narrowest dtype in the function (3e-4 for float32), with the name
      of the tie; if a tie does not match the tree; or if outputs are not
      finite, or all zero, so that no difference could show.

  >>> from jaxsparse.units import Member
  >>> params = {'in': np.eye(4), 'out': np.arange(4.)}
  >>> f = lambda params, x: x @ params['in'] @ params['out']
  >>> tie = Tie(4, (Member('in', 1),))
  >>> check_ties(f, params, [tie], np.ones(4))
  Traceback (most recent call last):
    ...
  ValueError: Tie 'in[:, *]' changes the function: ...
  """
  return check(jax.jit(fn), params, as_ties(ties), *inputs, seed=seed)


def check(run: Callable[..., Any], params: ArrayTree, ties: Ties,
          *inputs: Any, seed: int = 0) -> float:
  """`check_ties` of a function that is jitted already."""
  free = ties.free
  shapes = {path: np.shape(w) for path, w in trees.align(params)}
  params, inputs, precision = _wide(run, params, inputs)
  tolerance = precision**.5
  worst = 0.
  for round_ in range(_ROUNDS):
    rng = np.random.default_rng((seed, round_))
    orders = [(tie, _cycles(tie, rng)) for tie in free]
    moved, before = _elsewhere(run, params, inputs, rng)
    if free and not any(x.any() for x in before):
      raise ValueError(
          'Ties cannot be checked: the outputs of the function are all zero. '
          'Give inputs with other outputs.')

    def difference(orders, moved=moved, before=before):
      return distance(before, outputs(run, reordering.reorder(
          moved, orders, shapes=shapes), *inputs))
    worst = max(worst, difference(orders))
    if not worst <= tolerance:
      raise ValueError(_found(orders, difference, worst, tolerance))
  return worst


def _found(orders: Sequence[tuple[Tie, np.ndarray]],
           difference: Callable[..., float], worst: float, tolerance: float
           ) -> str:
  """Which ties change the function, as an error says it."""
  wrong = [(tie, alone) for tie, order in orders
           if not (alone := difference([(tie, order)])) <= tolerance]
  if not wrong:
    return (
        f'Permuting all ties together changes outputs by {worst:.2g} of the '
        'largest, but no tie alone does, so ties overlap. Write every part of '
        'an axis into one tie only.')
  tie, alone = wrong[0]
  others = ', '.join(repr(tie.name) for tie, _ in wrong[1:4])
  return (
      f'Tie {tie.name!r} changes the function: permuting its units '
      f'changes outputs by {alone:.2g} of the largest, more than rounding '
      f'(<= {tolerance:.2g}). An axis that indexes these units is missing '
      f'among {list(map(str, tie.members))}.'
      + (f' So do {others}: {len(wrong)} of {len(orders)} ties.'
         if others else ''))


def outputs(run: Callable[..., Any], params: ArrayTree, *inputs: Any
            ) -> list[np.ndarray]:
  """What a function returns that is numbers, computed as exactly as can be."""
  with jax.default_matmul_precision('highest'):
    return [np.asarray(x, np.float64)
            for x in jax.tree.leaves(run(params, *inputs))
            if jnp.issubdtype(jnp.asarray(x).dtype, jnp.number)]


def distance(before: Sequence[np.ndarray], after: Sequence[np.ndarray]
             ) -> float:
  """The largest difference of outputs, relative to the largest of each."""
  if [a.shape for a in before] != [b.shape for b in after]:
    return np.inf
  found = [np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)
           for a, b in zip(before, after) if a.size]
  return float(max(found, default=0.))


def _cycles(tie: Tie, rng: np.random.Generator) -> np.ndarray:
  """For each group a permutation of one cycle: no unit stays where it is."""
  order = rng.permuted(
      np.broadcast_to(np.arange(tie.size), tie.shape), axis=-1)
  made = np.empty_like(order)
  np.put_along_axis(made, order, np.roll(order, 1, axis=-1), axis=-1)
  return made


def _wide(run: Callable[..., Any], params: ArrayTree, inputs: tuple[Any, ...]
          ) -> tuple[ArrayTree, tuple[Any, ...], float]:
  """Parameters and inputs in float32 or wider, and what is exact to compute.

  As they are, where the function does not take them so.
  """
  def widened(x):
    dtype = jnp.result_type(x)
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.asarray(x).astype(jnp.float32) if narrow else x
  def exact(params, inputs):
    closed, _ = tracing.trace(run, params, *inputs)
    return params, inputs, constants.precision(closed, params)
  try:
    return exact(*jax.tree.map(widened, (params, inputs)))
  except Exception:  # Whatever a function says of other types.
    return exact(params, inputs)


def _elsewhere(run: Callable[..., Any], params: ArrayTree,
               inputs: tuple[Any, ...], rng: np.random.Generator
               ) -> tuple[ArrayTree, list[np.ndarray]]:
  """Parameters where no two units are alike, and finite outputs there."""
  for positive in (False, True):  # What is zero may be a variance.
    moved = jax.tree.map(
        functools.partial(nearby, rng=rng, positive=positive), params)
    found = outputs(run, moved, *inputs)
    if all(np.isfinite(x).all() for x in found):
      return moved, found
  raise ValueError(
      'Ties cannot be checked: the outputs of the function are not finite. '
      'Give other inputs, or the function in evaluation mode.')


def nearby(w: Any, rng: np.random.Generator, *, by: float = 1.,
           positive: bool = False) -> Any:
  """A parameter near another one, with the same scale and no two equal units.

  Args:
    w: the parameter. It is returned unchanged if it is not floating-point.
    rng: the generator of random numbers.
    by: a factor of the result.
    positive: whether zeros become positive.
  """
  if not jnp.issubdtype(jnp.result_type(w), jnp.floating):
    return w
  x = np.asarray(w, np.float32)
  scale = by * rng.uniform(.5, 1.5, x.shape).astype(np.float32)
  noise = rng.normal(size=x.shape).astype(np.float32)
  if not x.any():
    more = .1 * (np.abs(noise) if positive else noise)
  elif (x >= 0).all():
    more = .1 * np.abs(noise) * x.max() * (x == 0)
  else:
    more = by * .1 * noise * np.sqrt(np.square(x).mean())
  # Of NumPy, which permutes without a program for each shape.
  return (x * scale + more).astype(jnp.result_type(w))


def others(x: Any, rng: np.random.Generator) -> tuple[Any, Any]:
  """Two other inputs, so that what depends on them is no constant by accident.

  Of whole numbers and bools that are all the same, one of both is another.
  """
  x = jnp.asarray(x)
  if not x.size or jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
    return x, x
  if jnp.issubdtype(x.dtype, jnp.inexact):
    first, second = (
        rng.uniform(.5, 1.5, x.shape) * x.astype(np.float32) + rng.uniform(
            0., .1, x.shape) for _ in range(2))
  else:
    low, high = (0, 1) if x.dtype == bool else (int(x.min()), int(x.max()))
    if low == high:  # A lower index is one, too.
      low, high = (low - 1, high) if low > 0 else (low, high + 1)
    first = rng.integers(low, high, x.shape, endpoint=True)
    second = high - (first - low)
  return first.astype(x.dtype), second.astype(x.dtype)
