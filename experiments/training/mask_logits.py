"""Learned masks in a train step made for weights.

A train step of `steps` takes the gradient at the sparse weights
`w * m~(logits)`, and gives it to an optax transformation. Here the state of
that transformation holds the logits. The chain rule makes their gradient from
that of the sparse weights, and the updates of the weights are zero.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxsparse
from jaxsparse import methods
from jaxsparse import transform

PyTree = Any
Transformation = optax.GradientTransformation


class LogitsState(NamedTuple):
  """What a rule's state would hold, and the logits; trees like the params.

  Attributes:
    count: the number of updates made, int32.
    masks: those of the most probable candidates.
    logits: one for each candidate of each group.
    key: the data of the key that all noise comes from.
  """
  count: jax.Array
  masks: PyTree
  logits: PyTree
  key: jax.Array


class SoftMasks(NamedTuple):
  """The part of the state that the forward pass reads.

  Attributes:
    soft: like the params; a mask between 0 and 1 of a sparse weight.
  """
  soft: PyTree

  def sparse(self, weights: Sequence[jax.Array], masks: Sequence[jax.Array],
             gain: jax.Array) -> list[jax.Array]:
    """The weights of the forward pass, in the order of `weights`."""
    return [jnp.where(gain > 0, w * soft, jnp.where(m, w, jnp.zeros_like(w)))
            for w, m, soft in zip(
                weights, masks, jax.tree.leaves(self.soft), strict=True)]


def learn(learned: methods.LearnedMasks, optimizer: Transformation,
          prior: Transformation, *, steps: int, seed: int,
          tune: Transformation | None = None
          ) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer of logits in the place of one of weights.

  The forward pass uses soft masks for `steps` updates, and the masks of the
  most probable candidates from then on.

  Args:
    learned: how logits make masks.
    optimizer: trains the logits.
    prior: a rule; the logits start near its first masks.
    steps: the number of updates that the logits get.
    seed: of the first logits, and of the noise in each step.
    tune: trains the kept weights afterwards; by default weights never change.
  """
  tune = optax.set_to_zero() if tune is None else tune

  def forward(params, rule):
    ones = jax.tree.map(jnp.ones_like, params)
    soft = learned.sparse_params(ones, rule.logits, rule.count, _key(rule))
    return SoftMasks(jax.tree.map(
        lambda m, mask: None if mask is None else m, soft, rule.masks))

  def init(params):
    key = jax.random.key(seed)
    logits = learned.init(key, params, prior.init(params).masks)
    rule = LogitsState(jnp.zeros((), jnp.int32), learned.masks(params, logits),
                       logits, jax.random.key_data(key))
    return transform.SparseState(
        rule, jnp.ones((), jnp.float32), optax.EmptyState(),
        optimizer.init(logits), tune.init(params), forward(params, rule))

  def update(grads, state, params=None, **extra_args):
    del extra_args
    rule = state.rule

    def learn_logits():
      def surrogate(logits):
        """Its gradient is that of the loss."""
        sparse = learned.sparse_params(params, logits, rule.count, _key(rule))
        return optax.tree.vdot(grads, sparse) + learned.penalty(
            params, logits, rule.count, _key(rule))
      changes, inner = optimizer.update(
          jax.grad(surrogate)(rule.logits), state.inner, rule.logits)
      return (jax.tree.map(jnp.zeros_like, params),
              optax.apply_updates(rule.logits, changes), inner, state.after)

    def tune_weights():
      updates, after = tune.update(
          jaxsparse.apply_masks(grads, rule.masks), state.after, params)
      return (jaxsparse.apply_masks(updates, rule.masks), rule.logits,
              state.inner, after)

    updates, logits, inner, after = jax.lax.cond(
        rule.count < steps, learn_logits, tune_weights)
    rule = LogitsState(
        rule.count + 1, learned.masks(params, logits), logits, rule.key)
    return updates, transform.SparseState(
        rule, (rule.count < steps).astype(jnp.float32), state.before, inner,
        after, forward(params, rule))

  return optax.GradientTransformationExtraArgs(init, update)


def _key(rule):
  """The key of the next forward pass, and of the update that ends it."""
  return jax.random.fold_in(jax.random.wrap_key_data(rule.key), rule.count)
