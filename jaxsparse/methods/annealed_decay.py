"""CAST: the decay of pruned weights grows until they are zero.

  tx = jaxsparse.sparsify(
      optax.adamw(1e-4), methods.cast(patterns, total_steps=10_000))
"""

from typing import Any, Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse.methods._targets import targets as targets_of
from jaxsparse.transform import Method


class GroupScales(NamedTuple):
  """The group scales of the forward pass of `cast`.

  Attributes:
    scales: like the params; of a sparse weight a float32 array with the scale
      `c` of each group, such as `[in / 4, out]`, and `None` of a dense one.
  """
  scales: Any

  def sparse(self, weights: Sequence[jax.Array], masks: Sequence[jax.Array],
             gain: jax.Array) -> list[jax.Array]:
    """The weights of the forward pass, in the order of `weights`."""
    return [_scaled(w, m, scale, gain) for w, m, scale in zip(
        weights, masks, jax.tree.leaves(self.scales), strict=True)]


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '10'),
    decay=arguments.or_function(arguments.number(0, write='0.1')))
def cast(patterns: rules.Patterns, total_steps: int, *,
         decay: float | Callable[[Any], Any] = 0.1, every: int = 10,
         rescale: bool = True) -> Method:
  """CAST: an L1 decay of pruned weights that grows until they are zero.

  Begin with a trained network. Every `every` steps the rule makes new masks by
  magnitude. The gradient of a pruned weight becomes

    g + c(t) * sign(w),  c(t) = decay * t / total_steps

  The forward pass is dense during training, so a decayed weight comes back if
  its gradient is stronger than the decay. After `total_steps` updates the
  forward pass uses the kept weights alone, and masks stay.

  A group loses magnitude as its pruned weights decay. With `rescale`, the
  forward pass scales each group:

    w~ = s * u,  s = c * |m * w| / |u|,  c = |w| / |m * w| at init

  Here `u` are the weights of the group under mask and gain, `m * w` are its
  kept weights, and norms are taken over the group. The scale `s` is 1 at first
  and `c` in the end, so the norm of the group does not change while its pruned
  weights decay. Evaluate, pack and deploy the weights of `sparse_params`. A
  mask times the weights gives another network.

  To distil from the dense network, add to the loss

    optax.losses.kl_divergence(
        jax.nn.log_softmax(logits), jax.nn.softmax(teacher_logits)).mean()

  Args:
    patterns: maps regular expressions for paths to N:M patterns; `None` is
      dense.
    total_steps: the length of this training, in steps.
    decay: the strength `c` at the last step, in units of gradients; or a
      schedule that replaces the line. The decay has to outweigh the gradients
      of pruned weights well before the end: the last step cuts off any weight
      that is not near zero by then. Under Adam, such a decay moves a weight by
      about the learning rate per step, whatever its strength.
    every: the number of steps between new masks.
    rescale: whether the forward pass scales groups. The scales take one float32
      per group, a quarter of the weights at 2:4.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not N:M, if the decay is not positive, or if no
      new masks would be made; from `init`, if a group does not tile.

  References:
    Huang et al., `CAST: Continuous and Differentiable Semi-Structured
    Sparsity-Aware Training for Large Language Models
    <https://arxiv.org/abs/2509.25996>`_, 2025. The paper builds the decay into
    its own Adam, AdamS. Here the decay is a term of the gradient before any
    optimizer, so both moments of Adam include it. (The code of the authors'
    earlier `AST <https://arxiv.org/abs/2407.20584>`_ keeps the decay out of the
    first moment.) The paper trains the scales; here they follow from the
    weights, and the gradient at `w~` goes straight through. The default of
    `decay` is our own choice.

  >>> import optax
  >>> from jaxsparse import nm, sparse_params, sparsify
  >>> tx = sparsify(optax.sgd(.2), cast({'.*': nm(2, 4)}, 20, decay=4.))
  >>> w = jnp.array([[3.], [4.], [1.], [2.]])
  >>> state, update = tx.init(w), jax.jit(tx.update)
  >>> for _ in range(20):  # The loss pulls to (3, 4, 1, 2).
  ...   grads = sparse_params(w, state) - jnp.array([[3.], [4.], [1.], [2.]])
  ...   updates, state = update(grads, state, w)
  ...   w = optax.apply_updates(w, updates)
  >>> print(sparse_params(w, state)[:, 0].round())
  [3. 4. 0. 0.]
  """
  targets_of(patterns)
  if not callable(decay) and not arguments.may_hold(decay > 0):
    raise ValueError(
        'cast needs a decay above 0, so that pruned weights go to zero, got '
        f'decay={decay}. Write e.g. decay=0.1.')
  if not 1 <= every <= total_steps:
    raise ValueError(
        'cast needs 1 <= every <= total_steps, or it would make no new masks, '
        f'got every={every} and total_steps={total_steps}. Write e.g. '
        f'every={max(total_steps // 100, 1)}.')
  line = schedules.linear(0, total_steps)
  strength = decay if callable(decay) else lambda step: decay * line(step)
  flow = flows.ste()._replace(
      gain=lambda step: jnp.where(jnp.asarray(step) < total_steps, 1., 0.),
      before=flows.add_pruned_decay(strength, p=1))
  if rescale:
    flow = flow._replace(forward=lambda params, masks: _scales(
        patterns, params, masks))
  return Method(rules.prune(
      patterns, when=schedules.every(every, begin=0, end=total_steps)), flow)


def _scales(patterns: rules.Patterns, params: Any, masks: Any) -> GroupScales:
  """The norm of each group relative to that of its kept weights, `c`."""
  def scale(path, w, mask, pattern):
    if trees.is_dense(mask):
      return None
    if pattern is None:
      raise ValueError(
          f'{trees.named(path)}: '
          'cast has scales for its own patterns, and another rule '
          'prunes this parameter. Write cast(..., rescale=False).')
    tile = pattern.group_tile(w.shape)
    kept, all_of_it = (_squares(x, tile) for x in (
        jnp.where(mask, w, jnp.zeros_like(w)), w))
    return _root(all_of_it, kept).astype(jnp.float32)
  return GroupScales(trees.map_with_path(
      scale, params, masks, trees.match_rules(patterns, params)))


def _scaled(w: jax.Array, mask: jax.Array, scale: jax.Array, gain: jax.Array
            ) -> jax.Array:
  """`s * u` of every group."""
  tile = [n // max(groups, 1) for n, groups in zip(w.shape, scale.shape)]
  seen = flows.apply_masks(w, mask, gain)
  kept, all_of_it = (_squares(x, tile) for x in (
      jnp.where(mask, w, jnp.zeros_like(w)), seen))
  factor = scale.astype(kept.dtype) * _root(kept, all_of_it)
  factor = jnp.expand_dims(factor, tuple(range(1, 2 * w.ndim, 2)))
  return numerics.join_axes(
      numerics.split_axes(seen, tile) * factor.astype(w.dtype))


def _squares(w: jax.Array, tile: Sequence[int]) -> jax.Array:
  """The sum of squares of each group, in the shape of the grid of groups."""
  return jnp.sum(numerics.split_axes(numerics.squared(w), tile),
                 tuple(range(1, 2 * w.ndim, 2)))


def _root(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """The root of a quotient, or 1 where there is nothing to divide by."""
  some = denominator > 0
  return jnp.where(some, jnp.sqrt(numerator / jnp.where(
      some, denominator, jnp.ones_like(denominator))), 1.)
