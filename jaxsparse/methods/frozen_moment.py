"""STEP: dense training with Adam, then N:M with a frozen second moment.

  tx = jaxsparse.sparsify(
      optax.chain(frozen_adam, optax.scale_by_learning_rate(1e-3)),
      methods.step(patterns, total_steps=10_000, switch=2_500))

with `frozen_adam = methods.scale_by_frozen_adam(freeze_at=2_500)`.
"""

from typing import Any, Literal, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.methods._targets import targets as targets_of
from jaxsparse.rules import base
from jaxsparse.transform import Method

_NOT_YET = 2**31 - 1


class FrozenAdamState(NamedTuple):
  """The state of `scale_by_frozen_adam`.

  Attributes:
    count: the number of updates made, int32.
    mu: running means of gradients.
    nu: running means of their squares, until the moment freezes.
    frozen_at: with AutoSwitch, the number of updates that changed `nu`, int32,
      and 2**31 - 1 until it is known; otherwise `None`.
    changes: with AutoSwitch, the mean changes of `nu` in the latest updates,
      float32; otherwise `None`.
  """
  count: jax.Array
  mu: Any
  nu: Any
  frozen_at: jax.Array | None = None
  changes: jax.Array | None = None


@arguments.checked('freeze_at')
def scale_by_frozen_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
                         *, freeze_at: int | Sequence[int],
                         patterns: rules.Patterns | None = None
                         ) -> optax.GradientTransformation:
  """Adam whose second moment is frozen from a step on.

  Until `freeze_at` updates are made it is `optax.scale_by_adam`. From then on

    m / (1 - b1^t) / sqrt(v / (1 - b2^freeze_at) + eps)

  where `v` no longer changes, and `m` does.

  With two steps as `freeze_at`, the moment freezes between them, as soon as

    mean |v_t - v_(t-1)| < eps

  where the mean is taken over weights and over the last `1 / (1 - b2)` updates.
  The paper calls this AutoSwitch, with steps at 10% and 50% of training. The
  condition bounds `|g^2 - v|`, so the chosen step depends on the scale of the
  loss, on gradient clipping and on the batch size. Read the chosen step from
  `frozen_at` in the state.

  Args:
    b1: the decay of the running means of gradients.
    b2: the decay of the running means of squared gradients.
    eps: the constant added to the root of `v` before `freeze_at`, and to `v`
      itself afterwards.
    freeze_at: the number of updates that change `v`, at least 1; or the least
      and the largest number, such as `(1_000, 5_000)`.
    patterns: those of the method. AutoSwitch reads the changes of these weights
      alone; without patterns it reads all weights.

  Returns:
    An optax transformation. Chain it with the learning rate, and weight decay.

  Raises:
    ValueError: if no update would change `v`, or if a number is out of range;
      from `init`, if a regular expression matches no parameter.

  References:
    Lu et al., `STEP: Learning N:M Structured Sparsity Masks from Scratch with
    Precondition <https://arxiv.org/abs/2302.01172>`_, 2023. A released
    implementation adds `eps^(3/4)` to the root instead. Neither corrects the
    bias of `v`, which is small after 1 / (1 - b2) updates. Here the bias is
    corrected, so that step sizes do not jump when `v` freezes early.

  >>> tx, w = scale_by_frozen_adam(freeze_at=1), jnp.zeros(1)
  >>> state = tx.init(w)
  >>> for _ in range(3):
  ...   updates, state = tx.update(jnp.full(1, 2.), state)
  ...   print(state.nu)
  [0.004]
  [0.004]
  [0.004]
  """
  steps: Sequence[Any] = (
      freeze_at if isinstance(freeze_at, (tuple, list)) else [freeze_at])
  if not 1 <= len(steps) <= 2 or not all(map(arguments.is_whole, steps)) or (
      not 1 <= steps[0] <= steps[-1]):
    raise ValueError(
        'freeze_at must be one step of at least 1, or two steps in order, got '
        f'freeze_at={freeze_at!r:.40}. Write e.g. freeze_at=2_500, or '
        'freeze_at=(1_000, 5_000).')
  if not all(map(arguments.may_hold, (
      b1 >= 0, b1 < 1, b2 > 0, b2 < 1, eps > 0))):
    raise ValueError(
        'scale_by_frozen_adam needs 0 <= b1 < 1, 0 < b2 < 1 and eps > 0, got '
        f'b1={b1}, b2={b2} and eps={eps}. Write e.g. b1=0.9, b2=0.999.')
  finds = len(steps) == 2
  if finds and isinstance(b2, jax.core.Tracer):
    raise ValueError(
        f'freeze_at={freeze_at!r:.40} needs a number b2, which says over how '
        'many steps changes are averaged, got a traced one. Write '
        "optax.inject_hyperparams(..., static_args=('b2', 'freeze_at', "
        "'patterns')).")
  window = max(round(1. / (1. - b2)), 1) if finds else 1

  def init(params):
    if patterns is not None:
      trees.match_rules(patterns, params)
    return FrozenAdamState(
        jnp.zeros((), jnp.int32), optax.tree.zeros_like(params),
        optax.tree.zeros_like(params),
        jnp.full((), _NOT_YET, jnp.int32) if finds else None,
        jnp.zeros(window, jnp.float32) if finds else None)

  def freezing(step, grads, state):
    """When the moment freezes, and the latest changes."""
    if not finds:
      return steps[0], None
    change = (1. - b2) * _mean_distance(grads, state.nu, patterns)
    changes = state.changes.at[(step - 1) % window].set(change)
    mean = jnp.sum(changes) / jnp.minimum(step, window).astype(jnp.float32)
    due = (step >= steps[0]) & (mean < eps) | (step >= steps[1])
    return jnp.where(due, jnp.minimum(state.frozen_at, step),
                     state.frozen_at), changes

  def update(updates, state, params=None):
    del params
    step = state.count + 1
    freeze, changes = freezing(step, updates, state)
    frozen = step > freeze
    taken = jnp.minimum(step, freeze).astype(jnp.float32)
    bias1 = 1. - jnp.power(b1, step.astype(jnp.float32))
    bias2 = 1. - jnp.power(b2, taken)
    mu = jax.tree.map(
        lambda m, g: b1 * m + (1. - b1) * g.astype(m.dtype), state.mu, updates)
    nu = jax.tree.map(
        lambda v, g: jnp.where(
            frozen, v, b2 * v + (1. - b2) * jnp.square(
                jnp.abs(g).astype(v.dtype))),
        state.nu, updates)

    def scaled(m, v):
      m, v = m / bias1.astype(m.dtype), v / bias2.astype(v.dtype)
      return m / jnp.where(frozen, jnp.sqrt(v + eps), jnp.sqrt(v) + eps)
    return jax.tree.map(scaled, mu, nu), FrozenAdamState(
        step, mu, nu, freeze if finds else None, changes)

  return optax.GradientTransformation(init, update)


def _mean_distance(grads: Any, nu: Any, patterns: rules.Patterns | None
                   ) -> jax.Array:
  """The mean of `|g^2 - v|` over all sparse weights."""
  chosen = jax.tree.map(
      lambda v: True, nu) if patterns is None else jax.tree.map(
          lambda v, pattern: pattern is not None, nu,
          trees.match_rules(patterns, nu))
  rows = [jnp.abs(numerics.squared(g) - numerics.wide(jnp.real(v)))
          for c, v, g in zip(*map(jax.tree.leaves, (chosen, nu, grads))) if c]
  size = float(max(sum(row.size for row in rows), 1))  # No int32 holds it.
  return sum((jnp.sum(row).astype(jnp.float32) for row in rows),
             jnp.zeros((), jnp.float32)) / size


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), switch=arguments.any_of(
        arguments.step(write='2_500'), arguments.one_of(('auto',)),
        arguments.NONE))
def step(patterns: rules.Patterns, total_steps: int, *,
         switch: int | Literal['auto'] | None = None) -> Method:
  """STEP: dense training, then N:M by `ste` with a frozen second moment.

  Under `ste`, changing masks make Adam's second moment grow, so that its steps
  shrink. STEP learns the second moment in `switch` dense updates, and uses N:M
  masks from then on. This function makes the masks. Give the same number to
  `scale_by_frozen_adam(freeze_at=switch)`. With any other optimizer, the method
  is dense training followed by `ste`.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    switch: the number of dense updates; by default a quarter of training (the
      paper has between 10% and 50%). With `'auto'`, masks follow the step that
      the optimizer `scale_by_frozen_adam(freeze_at=(1_000, 5_000),
      patterns=patterns)` finds. `rehearse` and `check_resume` run a rule
      without its optimizer, and raise an error for `'auto'`.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, or if the switch is not within
      training; from `update`, if `switch` is `'auto'` and the optimizer finds
      no step.

  References:
    Lu et al., `STEP: Learning N:M Structured Sparsity Masks from Scratch with
    Precondition <https://arxiv.org/abs/2302.01172>`_, 2023. The paper finds the
    step by AutoSwitch, which depends on the scale of the loss, see
    `scale_by_frozen_adam`. Here the step is given, unless `switch` is `'auto'`.

  >>> from jaxsparse import nm
  >>> rule = step({'.*': nm(2, 4)}, 4, switch=2).rule
  >>> w = jnp.arange(4.)[:, None]
  >>> state, kept = rule.init(w), []
  >>> for _ in range(4):
  ...   masks, state = rule.update(w, state, w)
  ...   kept.append(int(masks.sum()))  # Of the next forward pass.
  >>> kept
  [4, 2, 2, 2]
  """
  targets = targets_of(patterns)
  dense = {regex: None if t is None else patterns_lib.nm(t[1], t[1], axis=t[2])
           for regex, t in targets.items()}
  if switch == 'auto':
    return Method(_follow_optimizer(dense, patterns), flows.ste())
  switch = total_steps // 4 if switch is None else switch
  if not 1 <= switch < total_steps:
    raise ValueError(
        f'switch={switch} is not within total_steps={total_steps}: some steps '
        'must be dense, and some N:M after them. Write e.g. '
        f'switch={max(total_steps // 4, 1)}.')
  return Method(rules.stages({
      # Made once, and looked at no more.
      0: rules.prune(dense, when=schedules.every(1, begin=0, end=0)),
      switch: rules.prune(patterns)}), flows.ste())


def _follow_optimizer(dense: rules.Patterns, patterns: rules.Patterns
                      ) -> rules.Rule:
  """Dense until the optimizer has frozen its second moment, and N:M then."""
  sparse = rules.prune(patterns)

  def init(params):
    sparse.init(params)  # Says now what does not fit.
    return rules.prune(dense).init(params)

  def update(grads, state, params=None, *, optimizer=None, **extra_args):
    found = [adam for adam in trees.nodes(optimizer, FrozenAdamState)
             if adam.frozen_at is not None]
    if len(found) != 1:
      raise ValueError(
          "step(switch='auto') follows an optimizer that finds the step "
          f'itself, and there are {len(found)}. Write sparsify(optax.chain('
          'methods.scale_by_frozen_adam(freeze_at=(1_000, 5_000), '
          'patterns=patterns), optax.scale_by_learning_rate(1e-3)), '
          "methods.step(patterns, total_steps, switch='auto')).")
    masks = base.run_if(
        found[0].count >= found[0].frozen_at,
        lambda: sparse.update(grads, state, params, **extra_args)[0],
        state.masks)
    return masks, state._replace(count=state.count + 1, masks=masks)

  return rules.EveryStep(init, update)
