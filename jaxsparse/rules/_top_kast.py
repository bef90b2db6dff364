"""Top-KAST: a sparse forward pass inside a larger set of weights that learn.

  A = the highest |w| of each layer, density D: the forward pass, w~ = w * A
  B = A and the next highest: the weights that get gradients and updates

`forward_backward` is the rule that makes both sets, `flows.top_kast` the flow
that uses them.
"""

from typing import Any, Mapping, NamedTuple

from jaxsparse import patterns as patterns_lib
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse.rules import base
from jaxsparse.rules._prune import prune


class _Fields(NamedTuple):
  inner: base.RuleState
  backward: Any


class ForwardBackwardState(base.Around, _Fields):
  """The state of `forward_backward`.

  Attributes:
    inner: the state of the rule that makes the forward sets A, its masks.
    backward: the backward sets B, which contain A.
  """


@arguments.checked(patterns=base.SOME_PATTERNS)
def forward_backward(patterns: base.Patterns, *,
                     backward: float | Mapping[str, float],
                     when: schedules.When | None = None) -> base.Rule:
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

  >>> import jax.numpy as jnp
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
  used, trained = (prune(p, when=when) for p in (patterns, wider))

  def init(params):
    return ForwardBackwardState(used.init(params), trained.init(params).masks)

  def update(grads, state, params=None, **extra_args):
    def make(rule, inner):
      return rule.update(grads, inner, params, **extra_args)
    masks, inner = make(used, state.inner)
    backward, _ = make(trained, state.inner._replace(masks=state.backward))
    return masks, ForwardBackwardState(inner, backward)

  return base.made_of(init, update, used)
