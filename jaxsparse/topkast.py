"""Top-KAST: a sparse forward pass inside a larger set of weights that learn.

  A = the highest |w| of each layer, density D: the forward pass, w~ = w * A
  B = A and the next highest: the weights that get gradients and updates

`forward_backward` is the rule that makes both sets, `top_kast` the flow that
uses them.
"""

from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import trees


class ForwardBackwardState(NamedTuple):
  """The state of `forward_backward`.

  Attributes:
    count: the number of updates made, int32.
    masks: the forward sets A: bool arrays, or `None` where dense.
    backward: the backward sets B, which contain A.
  """
  count: jax.Array
  masks: Any
  backward: Any


def forward_backward(patterns: rules.Patterns, *,
                     backward: float | Mapping[str, float],
                     when: schedules.When | None = None) -> rules.Rule:
  """Two nested sets by magnitude: what is used, and what is trained.

  Args:
    patterns: regular expressions for parameter paths to patterns with a
      sparsity of their own, that of the forward set A: `nm(1, 8)`,
      `unstructured(sparsity=0.9)`.
    backward: the fraction of each group that is not even trained: the sparsity
      of the backward set B, not above that of A; one for all, or one by each
      regular expression of a pattern. 0.75 of `nm(1, 8)` is 2:8.
    when: at which steps both sets are made anew; every 100 by default.

  Returns:
    A rule whose masks are A; its state has B as `backward`.

  Raises:
    ValueError: if a pattern has no sparsity or B would not contain A; from
      `init`, see `rules.resolve`.

  References:
    Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
    <https://arxiv.org/abs/2106.03517>`_, 2021

  >>> rule = forward_backward({'.*': patterns_lib.nm(1, 4)}, backward=0.5)
  >>> state = rule.init(jnp.arange(4.)[:, None])
  >>> print(state.masks[:, 0], state.backward[:, 0])
  [False False False  True] [False False  True  True]
  """
  wider = {}
  for regex, pattern in patterns.items():
    if pattern is None:
      wider[regex] = None
      continue
    share = backward.get(regex, -1.) if isinstance(
        backward, Mapping) else backward
    if pattern.sparsity is None or not 0 <= share <= pattern.sparsity:
      raise ValueError(
          f'{regex!r}: the backward set contains the forward set, so '
          'forward_backward needs 0 <= backward <= sparsity, got '
          f'backward={backward} and sparsity={pattern.sparsity} of {pattern}. '
          "Write e.g. forward_backward({'.*/kernel': nm(1, 8)}, "
          'backward=0.75).')
    wider[regex] = patterns_lib.with_sparsity(pattern, share)
  when = when or schedules.every(100)
  used, trained = (rules.prune(p, when=when) for p in (patterns, wider))

  def init(params):
    state = used.init(params)
    return ForwardBackwardState(
        state.count, state.masks, trained.init(params).masks)

  def update(grads, state, params=None, **extra_args):
    def make(rule, masks):
      return rule.update(grads, rules.RuleState(state.count, masks, ()), params,
                         **extra_args)[0]
    masks = make(used, state.masks)
    return masks, ForwardBackwardState(
        state.count + 1, masks, make(trained, state.backward))

  return rules.Rule(init, update)


def add_exploration_decay(decay: float = 1e-4, p: int = 2) -> flows.Transform:
  """Adds the exploration penalty of Top-KAST to gradients.

  `g + c * w` on A, `g + c * w / D` on B without A, `g` elsewhere, with D the
  density of A. What is trained but not used has to earn its place: it shrinks
  faster. With `p=1`, `sign(w)` stands for `w`.

  Args:
    decay: `c`.
    p: the norm, 1 or 2.

  Returns:
    A transform whose `update` takes `masks` (A) and `backward` (B).

  Raises:
    ValueError: if p is another number, or from `update` if a set is missing.

  >>> tx, w = add_exploration_decay(0.5), jnp.array([4., 2., 1., 1.])
  >>> sets = dict(masks=w > 2, backward=w > 1)
  >>> print(tx.update(jnp.zeros(4), tx.init(w), w, **sets)[0])
  [2. 4. 0. 0.]
  """
  if p not in (1, 2):
    raise ValueError(f'The exploration penalty has p=1 or p=2, got p={p}.')

  def update(updates, state, params=None, *, masks=None, backward=None,
             **extra_args):
    del extra_args
    if params is None or masks is None or backward is None:
      raise ValueError(
          'add_exploration_decay needs params, masks and backward. Write '
          'tx.update(grads, state, params, masks=a, backward=b).')

    def add(w, used, trained, g):
      pull = decay * (jnp.sign(w) if p == 1 else w).astype(g.dtype)
      density = jnp.maximum(used.mean(dtype=jnp.float32), 1. / w.size)
      out = g + pull / density.astype(g.dtype)
      return jnp.where(used, g + pull, jnp.where(trained, out, g))
    return trees.map_masked(
        add, params, masks, backward, updates,
        dense=lambda w, trained, g: g), state

  return flows.Transform(lambda params: optax.EmptyState(), update)


def _of_rule(tx: flows.Transform, sets: Callable[[Any], dict[str, Any]]
             ) -> flows.Transform:
  """Gives a transform the sets of the rule instead of the masks."""
  def update(updates, state, params=None, *, rule=None, **extra_args):
    if not hasattr(rule, 'backward'):
      raise ValueError(
          'The flow top_kast() needs the rule that makes its two sets. Write '
          'sparsify(optimizer, jaxsparse.forward_backward(patterns, '
          'backward=0.75), jaxsparse.top_kast()).')
    return tx.update(updates, state, params, **{**extra_args, **sets(rule)})
  return flows.Transform(tx.init, update)


def top_kast(decay: float = 1e-4, p: int = 2) -> flows.Flow:
  """Top-KAST: A is used, B is trained, and nothing else moves.

  Gradients outside of B are zero before the optimizer and its updates are zero
  after it, momentum and weight decay included. Weights outside of B keep their
  values, which is how they can come back.

  Args:
    decay: the strength of the exploration penalty.
    p: its norm, 1 or 2.

  Returns:
    A flow for the rule `forward_backward`.

  Raises:
    ValueError: if p is another number.

  References:
    Jayakumar et al., `Top-KAST: Top-K Always Sparse Training
    <https://arxiv.org/abs/2106.03517>`_, 2021
  """
  within = _of_rule(flows.gate_gradients(),
                    lambda rule: dict(masks=rule.backward))
  pull = _of_rule(add_exploration_decay(decay, p), lambda rule: dict(
      masks=rule.masks, backward=rule.backward))
  before = optax.with_extra_args_support(optax.chain(within, pull))
  return flows.ste()._replace(before=before, after=within)
