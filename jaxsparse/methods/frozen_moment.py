"""STEP: Adam learns its step sizes dense, and N:M masks from then on.

  tx = jaxsparse.sparsify(
      optax.chain(frozen_adam, optax.scale_by_learning_rate(1e-3)),
      methods.step(patterns, total_steps=10_000, switch=2_500))

with `frozen_adam = methods.scale_by_frozen_adam(freeze_at=2_500)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import flows
from jaxsparse import patterns as patterns_lib
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse.methods._targets import targets as targets_of
from jaxsparse.transform import Method


class FrozenAdamState(NamedTuple):
  """The state of `scale_by_frozen_adam`.

  Attributes:
    count: the number of updates made, int32.
    mu: running means of gradients.
    nu: running means of their squares, until the moment freezes.
  """
  count: jax.Array
  mu: Any
  nu: Any


@arguments.checked('freeze_at')
def scale_by_frozen_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
                         *, freeze_at: int) -> optax.GradientTransformation:
  """Adam whose second moment is frozen from a step on.

  Until `freeze_at` updates are made it is `optax.scale_by_adam`. From then on

    m / (1 - b1^t) / sqrt(v / (1 - b2^freeze_at) + eps)

  with `v` as the last of those updates left it, while `m` goes on.

  Args:
    b1: the decay of the running means of gradients.
    b2: the decay of the running means of squared gradients.
    eps: the constant added to the root of `v` before `freeze_at`, and to `v`
      itself afterwards.
    freeze_at: the number of updates that change `v`, at least 1.

  Returns:
    An optax transformation. Chain it with the learning rate, and weight decay.

  Raises:
    ValueError: if `v` would take nothing in, or a number is out of range.

  References:
    Lu et al., `STEP: Learning N:M Structured Sparsity Masks from Scratch with
    Precondition <https://arxiv.org/abs/2302.01172>`_, 2023. A released
    implementation adds `eps^(3/4)` to the root instead, and both leave the bias
    of `v` as it is, which 1 / (1 - b2) updates make small; it is corrected
    here, so that no step size jumps where `v` freezes early.

  >>> tx, w = scale_by_frozen_adam(freeze_at=1), jnp.zeros(1)
  >>> state = tx.init(w)
  >>> for _ in range(3):
  ...   updates, state = tx.update(jnp.full(1, 2.), state)
  ...   print(state.nu)
  [0.004]
  [0.004]
  [0.004]
  """
  if isinstance(freeze_at, bool) or not isinstance(freeze_at, int) or (
      freeze_at < 1):
    raise ValueError(
        'The second moment needs updates to take in, got freeze_at='
        f'{freeze_at!r:.40}, in steps. Write e.g. freeze_at=2_500.')
  if not (0 <= b1 < 1 and 0 < b2 < 1 and eps > 0):
    raise ValueError(
        'scale_by_frozen_adam needs 0 <= b1 < 1, 0 < b2 < 1 and eps > 0, got '
        f'b1={b1}, b2={b2} and eps={eps}. Write e.g. b1=0.9, b2=0.999.')

  def init(params):
    return FrozenAdamState(
        jnp.zeros((), jnp.int32), optax.tree.zeros_like(params),
        optax.tree.zeros_like(params))

  def update(updates, state, params=None):
    del params
    step = state.count + 1
    frozen = step > freeze_at
    taken = jnp.minimum(step, freeze_at).astype(jnp.float32)
    bias1 = 1. - jnp.power(b1, step.astype(jnp.float32))
    bias2 = 1. - jnp.power(b2, taken)
    mu = jax.tree.map(
        lambda m, g: b1 * m + (1. - b1) * g.astype(m.dtype), state.mu, updates)
    nu = jax.tree.map(
        lambda v, g: jnp.where(
            frozen, v, b2 * v + (1. - b2) * jnp.square(g.astype(v.dtype))),
        state.nu, updates)

    def scaled(m, v):
      m, v = m / bias1.astype(m.dtype), v / bias2.astype(v.dtype)
      return m / jnp.where(frozen, jnp.sqrt(v + eps), jnp.sqrt(v) + eps)
    return jax.tree.map(scaled, mu, nu), FrozenAdamState(step, mu, nu)

  return optax.GradientTransformation(init, update)


@arguments.checked(total_steps=arguments.step(1, '10_000'))
def step(patterns: rules.Patterns, total_steps: int, *,
         switch: int | None = None) -> Method:
  """STEP: dense training, then N:M by `ste` with a frozen second moment.

  Noisy masks make the second moment of Adam grow, so that its steps shrink and
  `ste` falls behind. Here the moment is learned dense, by the first `switch`
  updates, and masks are N:M from then on. This is the part of the masks; give
  the same number to `scale_by_frozen_adam(freeze_at=switch)`. With any other
  optimizer it is dense training and then `ste`.

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of training, in steps.
    switch: the number of updates that are dense; by default a quarter of the
      training (in the paper between 10% and 50%).

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, or the switch not within training.

  References:
    Lu et al., `STEP: Learning N:M Structured Sparsity Masks from Scratch with
    Precondition <https://arxiv.org/abs/2302.01172>`_, 2023. Its AutoSwitch
    looks for the step by `mean |v_t - v_(t-1)| < eps`. That is a bound on
    `|g^2 - v|` in units of the loss, so it depends on how the loss is scaled,
    on clipping and on the size of the batch; we have a step that is told.

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
  switch = total_steps // 4 if switch is None else switch
  if not 1 <= switch < total_steps:
    raise ValueError(
        f'switch={switch} is not within total_steps={total_steps}: some steps '
        'must be dense, and some N:M after them. Write e.g. '
        f'switch={max(total_steps // 4, 1)}.')
  dense = {regex: None if t is None else patterns_lib.nm(t[1], t[1], axis=t[2])
           for regex, t in targets.items()}
  return Method(rules.stages({
      # Made once, and looked at no more.
      0: rules.prune(dense, when=schedules.every(1, begin=0, end=0)),
      switch: rules.prune(patterns)}), flows.ste())
