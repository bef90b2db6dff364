"""Top-KAST: a sparse forward pass inside a larger set of weights that learn.

  A = the weights of highest |w| in each layer, density D; forward: w~ = w * A
  B = A and the next highest |w|: the weights that get gradients and updates

The rule `forward_backward` makes both sets, and the flow `flows.top_kast` uses
them.
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
    inner: the state of the rule that makes the forward sets A, the masks.
    backward: the backward sets B, which contain A; a tree like the masks.
  """


@arguments.checked(patterns=base.SOME_PATTERNS)
def forward_backward(patterns: base.Patterns, *,
                     backward: float | Mapping[str, float],
                     when: schedules.When | None = None) -> base.Rule:
  """Makes two nested sets of weights by magnitude: one used, one trained.

  The forward pass uses the weights of the set A; the optimizer trains the
  weights of the larger set B.

  Args:
    patterns: maps regular expressions for parameter paths to patterns that have
      a sparsity of their own, such as `nm(1, 8)` or
      `unstructured(sparsity=0.9)`. It is the sparsity of the forward set A.
    backward: the sparsity of the backward set B, the fraction of each group
      that is not trained. It is at most the sparsity of A. One number serves
      all patterns; a mapping has a number for each regular expression. 0.75
      with `nm(1, 8)` makes B 2:8.
    when: a function from step to bool, true at the steps that make both sets
      anew; every 100 steps by default.

  Returns:
    A rule whose masks are A, and whose state has B as `backward`.

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
          f'{regex!r}: the backward set must contain the forward set, so '
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
