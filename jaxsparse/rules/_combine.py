"""`combine`: several rules for different parameters as one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.rules import base


class CombinedState(NamedTuple):
  """The state of `combine`.

  Attributes:
    states: the states of the rules, in the order of the rules.
  """
  states: tuple[Any, ...]

  @property
  def count(self) -> jax.Array:
    """The number of updates made."""
    return self.states[0].count

  @property
  def masks(self) -> ArrayTree:
    """Like the params: bool arrays, or `None` where all rules are dense."""
    return _merged([state.masks for state in self.states])

  @property
  def dense(self) -> jax.Array | None:
    """Whether any rule's last update read dense gradients, see `RuleState`."""
    known = [s.dense for s in self.states if s.dense is not None]
    return jnp.stack(known).any() if known else None


@arguments.checked()
def combine(*rules: base.Rule) -> base.Rule:
  """Joins rules for different parameters into one.

  A parameter gets its mask from the rule that prunes it, and is dense if no
  rule does. Every rule has its own score, distribution, schedule and steps, and
  its distribution covers its own parameters alone. For several patterns under
  one threshold, use one rule with several patterns.

  Args:
    *rules: `prune(...)`, `prune_and_grow(...)`, `lock(patterns)` or any other
      rules, each with patterns for its own parameters.

  Returns:
    A rule with a `CombinedState`.

  Raises:
    ValueError: if no rule is given; from `init` if two rules prune the same
      parameter.

  >>> from jaxsparse import prune
  >>> from jaxsparse.patterns import channel, nm
  >>> rule = combine(
  ...     prune({'mlp/.*': nm(2, 4)}),
  ...     prune({'head': channel(-1, sparsity=0.5)}))
  >>> params = {'mlp': {'kernel': jnp.ones((4, 2))}, 'head': jnp.ones((2, 8))}
  >>> masks = rule.init(params).masks
  >>> print(masks['mlp']['kernel'].mean(), masks['head'].mean())
  0.5 0.5
  """
  if not rules:
    raise ValueError(
        'combine() needs at least one rule, got none. Write e.g. '
        'combine(prune({"mlp.*": nm(2, 4)}), prune({"head": nm(1, 4)})).')
  parts = [base.with_extra_args(rule) for rule in rules]

  def init(params):
    states = tuple(rule.init(params) for rule in parts)
    for path, _, *masks in trees.align(params, *(s.masks for s in states)):
      pruning = [i for i, m in enumerate(masks) if not trees.is_dense(m)]
      if len(pruning) > 1:
        raise ValueError(
            f'{path} is pruned by rules {pruning} of combine, counted from 0, '
            'but only one rule may prune a parameter. Make it dense in the '
            'patterns of the others (or give these rules other ties): '
            f'{{{path!r}: None, ...}}.')
    return CombinedState(states)

  def update(grads, state, params=None, **extra_args):
    states = tuple(
        rule.update(grads, one, params, **extra_args)[1]
        for rule, one in zip(parts, state.states))
    state = CombinedState(states)
    return state.masks, state

  return base.made_of(init, update, *parts)


def _merged(masks: list[Any]) -> Any:
  return jax.tree.map(
      lambda *ms: next((m for m in ms if not trees.is_dense(m)), ms[0]),
      *masks, is_leaf=trees.is_dense)
