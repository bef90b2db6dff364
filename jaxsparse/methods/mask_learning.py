"""MaskLLM: masks that are learned by gradient descent, for frozen weights.

  learned = methods.learned_masks({'.*kernel': nm(2, 4)}, total_steps=2_000)
  logits = learned.init(key, params)
  tx = optax.adamw(1e-3)

  def loss_fn(logits, step, key, batch):
    sparse = learned.sparse_params(params, logits, step, key)
    return loss(sparse, batch) + learned.penalty(params, logits, step, key)

  ...  # Any training of `logits` by `tx`.
  masks = learned.masks(params, logits)
"""

import itertools
import math
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import patterns as patterns_lib
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.patterns import Pattern

_MOST = 70  # The largest number of candidates of a group, reached by 4:8.
_ENDS = arguments.Check(
    lambda value: isinstance(value, (tuple, list)) and len(value) == 2 and all(
        arguments.is_number(end) and end > 0 for end in value),
    'two numbers above 0, the values at the first and at the last step')


class LearnedMasks(NamedTuple):
  """The pure functions of `learned_masks`.

  Attributes:
    init: `init(key, params, masks=None)` returns the logits, a tree like the
      params: `[..., candidates]` for a sparse weight, with one row for each
      group, and `None` for a dense one. With `masks`, the logits start near
      these masks.
    sparse_params: `sparse_params(params, logits, step, key)` returns the
      weights of the forward pass, `w * m~`. Differentiate it with respect to
      the logits.
    penalty: `penalty(params, logits, step, key)` returns
      `-decay(step) * sum |w * m~|^2`. Add it to the loss; it keeps soft masks
      from shrinking the kept weights.
    masks: `masks(params, logits)` returns the masks of the most probable
      candidates.
  """
  init: Callable[..., ArrayTree]
  sparse_params: Callable[[ArrayTree, ArrayTree, Any, jax.Array], ArrayTree]
  penalty: Callable[[ArrayTree, ArrayTree, Any, jax.Array], jax.Array]
  masks: Callable[[ArrayTree, ArrayTree], ArrayTree]


@arguments.checked(total_steps=arguments.step(1, '2_000'),
                   scale=_ENDS, temperature=_ENDS)
def learned_masks(patterns: Mapping[str, Pattern | None], total_steps: int, *,
                  scale: tuple[float, float] = (100., 500.),
                  temperature: tuple[float, float] = (4., 0.05),
                  prior: float = 3., decay: float = 1e-5) -> LearnedMasks:
  """MaskLLM: learns N:M masks of a trained network by gradient descent.

    m~ = softmax((k * logits + gumbel) / t) S

  `S` has a row for each way to keep N of M weights, a candidate. The scale `k`
  and the temperature `t` are linear in the step. The weights are frozen; the
  logits are a pytree that any optax optimizer trains. Each group of M weights
  has one logit per candidate: 1.5 logits per weight at 2:4, 8.75 at 4:8.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    scale: `k` at the first and at the last step.
    temperature: `t` at the first and at the last step.
    prior: the strength of the masks given to `init`. The logit of a candidate
      rises by `prior` standard deviations for each kept weight that it shares
      with the mask, beyond the mean number of a random candidate.
    decay: the factor of the penalty at the first step; it falls to 0 at the
      last step.

  Returns:
    A `LearnedMasks`.

  Raises:
    ValueError: if a pattern is not N:M, has more than 70 candidates, or is
      transposable; if numbers are not positive; or from `init` if groups do not
      tile a parameter.

  References:
    Fang et al., `MaskLLM: Learnable Semi-Structured Sparsity for Large Language
    Models <https://arxiv.org/abs/2409.17481>`_, 2024. Defaults are those of the
    released scripts, not those of the released argument parser.

  >>> params = {'w': jnp.array([[1.], [9.], [8.], [2.]])}
  >>> learned = learned_masks({'w': patterns_lib.nm(2, 4)}, 10)
  >>> near = {'w': jnp.array([[True], [False], [False], [True]])}
  >>> logits = learned.init(jax.random.key(0), params, near)
  >>> logits['w'].shape
  (1, 1, 6)
  >>> learned.masks(params, logits)['w'][:, 0]
  Array([ True, False, False,  True], dtype=bool)
  """
  for regex, pattern in patterns.items():
    if pattern is not None:
      _check(regex, pattern)

  def at(ends, step):
    done = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0., 1.)
    return ends[0] + (ends[1] - ends[0]) * done

  def each(f, params, logits, *rest):
    """Maps `f(w, logits, pattern, i, ...)` over sparse weights."""
    places = iter(itertools.count())
    return jax.tree.map(
        lambda w, g, pattern, *others: None if g is None else f(
            w, g, pattern, next(places), *others),
        params, trees.nested_like(params, logits),
        trees.match_rules(patterns, params), *rest)

  def init(key, params, masks=None):
    matched = trees.match_rules(patterns, params)
    places = iter(itertools.count())

    def one(w, pattern, mask=None):
      if pattern is None:
        return None
      n, m, _ = patterns_lib.n_m_axis(pattern)
      shape = (*_grid(w.shape, pattern), math.comb(m, n))
      noise = 0.01 * jax.random.normal(
          jax.random.fold_in(key, next(places)), shape, jnp.float32)
      if mask is None or trees.is_dense(mask):
        return noise
      # Kept weights shared with the mask, less the mean of random candidates.
      common = _grouped(mask, pattern).astype(jnp.float32) @ (
          _candidates(pattern).T)
      return noise + (common - n * n / m) * jnp.std(noise) * prior
    if masks is None:
      return jax.tree.map(one, params, matched)
    masks = trees.nested_like(params, masks)
    trees.same_structure(params, masks)
    return jax.tree.map(one, params, matched, masks)

  def soft(params, logits, step, key):
    def one(w, g, pattern, i):
      noise = jax.random.gumbel(jax.random.fold_in(key, i), g.shape, g.dtype)
      probable = jax.nn.softmax(
          (at(scale, step) * g + noise) / at(temperature, step), axis=-1)
      return _ungrouped(probable @ _candidates(pattern), w.shape, pattern)
    return each(one, params, logits)

  def sparse_params(params, logits, step, key):
    return jax.tree.map(
        lambda w, m: w if m is None else w * m.astype(w.dtype),
        params, soft(params, logits, step, key))

  def penalty(params, logits, step, key):
    masked = each(
        lambda w, g, pattern, i, m: jnp.sum(
            jnp.square(w.astype(jnp.float32) * m)),
        params, logits, soft(params, logits, step, key))
    total = sum(jax.tree.leaves(masked), jnp.zeros((), jnp.float32))
    return -at((decay, 0.), step) * total

  def masks_of(params, logits):
    def one(w, g, pattern, i):
      del i
      chosen = jnp.asarray(_candidates(pattern) > 0)[jnp.argmax(g, -1)]
      return _ungrouped(chosen, w.shape, pattern)
    return each(one, params, logits)

  return LearnedMasks(init, sparse_params, penalty, masks_of)


def _check(regex: str, pattern: Pattern) -> None:
  n, m, _ = patterns_lib.n_m_axis(pattern)
  if patterns_lib.is_transposable(pattern) or not 0 < n < m or (
      math.comb(m, n) > _MOST):
    raise ValueError(
        f'{regex!r}: learned_masks needs N:M patterns with 0 < N < M and at '
        f'most {_MOST} candidates, not transposable, got {pattern} with '
        f'{math.comb(m, n)}. Write e.g. nm(2, 4), nm(1, 8) or nm(4, 8).')


def _candidates(pattern: Pattern) -> np.ndarray:
  """`[candidates, M]` of 0 and 1: the ways to keep N of M."""
  n, m, _ = patterns_lib.n_m_axis(pattern)
  made = np.zeros((math.comb(m, n), m), np.float32)
  for row, kept in zip(made, itertools.combinations(range(m), n)):
    row[list(kept)] = 1.
  return made


def _split(shape: tuple[int, ...], pattern: Pattern) -> list[int]:
  """The shape with each axis split in two: groups, and members of a group."""
  return [n for size, t in zip(shape, pattern.group_tile(shape))
          for n in (size // max(t, 1), t)]


def _grid(shape: tuple[int, ...], pattern: Pattern) -> tuple[int, ...]:
  return tuple(_split(shape, pattern)[::2])


def _grouped(x: jax.Array, pattern: Pattern) -> jax.Array:
  """`[..., M]`, with the members of a group last."""
  split = _split(x.shape, pattern)
  order = (*range(0, len(split), 2), *range(1, len(split), 2))
  _, m, _ = patterns_lib.n_m_axis(pattern)
  return x.reshape(split).transpose(order).reshape(*split[::2], m)


def _ungrouped(x: jax.Array, shape: tuple[int, ...], pattern: Pattern
               ) -> jax.Array:
  """The inverse of `_grouped`."""
  split = _split(shape, pattern)
  rank = len(shape)
  order = [k for i in range(rank) for k in (i, rank + i)]
  return x.reshape(*split[::2], *split[1::2]).transpose(order).reshape(shape)
