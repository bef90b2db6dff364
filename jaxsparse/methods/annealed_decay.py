"""CAST: pruned weights decay ever faster, and are zero in the end.

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
  """What the forward pass of `cast` needs beside masks.

  Attributes:
    scales: like the params; of a sparse weight a float32 array with the scale
      `c` of each group, such as `[in / 4, out]`, and `None` of a dense one.
  """
  scales: Any

  def sparse(self, weights: Sequence[jax.Array], masks: Sequence[jax.Array],
             gain: jax.Array) -> list[jax.Array]:
    """The sparse weights in turn, as the forward pass sees them."""
    return [_scaled(w, m, scale, gain) for w, m, scale in zip(
        weights, masks, jax.tree.leaves(self.scales), strict=True)]


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '10'),
    decay=arguments.or_function(arguments.number(0, write='0.1')))
def cast(patterns: rules.Patterns, total_steps: int, *,
         decay: float | Callable[[Any], Any] = 0.1, every: int = 10,
         rescale: bool = True) -> Method:
  """CAST: an L1 decay of pruned weights that grows until they are zero.

  Every `every` steps masks are made anew by magnitude, and the gradient of a
  weight that is pruned now becomes

    g + c(t) * sign(w),  c(t) = decay * t / total_steps

  Weights are dense in the forward pass while they train, and a weight that has
  decayed comes back if its gradient is stronger. After `total_steps` updates
  the forward pass sees kept weights alone, and masks stay. Begin with a trained
  network.

  A group loses magnitude as its pruned weights decay. With `rescale` its
  weights have a scale in the forward pass, `u` being the weights under masks
  and gain, `m * w` those that are kept, and norms those of the group:

    w~ = s * u,  s = c * |m * w| / |u|,  c = |w| / |m * w| at init

  so that `s` is 1 at first and `c` in the end, and pruned weights that decay
  leave the norm of the group as it is. `sparse_params` has the weights to
  evaluate, to pack and to deploy; the masks times the weights are others.

  To distil from the dense network, `teacher`, add to the loss

    optax.losses.kl_divergence(
        jax.nn.log_softmax(logits), jax.nn.softmax(teacher_logits)).mean()

  Args:
    patterns: regular expressions to N:M patterns, `None` for dense.
    total_steps: the length of this training.
    decay: the strength `c` at the last step, in units of gradients, or a
      schedule of the step instead of the line. It has to outweigh gradients of
      pruned weights well before the end: weights that are not near zero then
      are cut off all the same. Adam makes steps of its learning rate of any
      decay that does.
    every: how often masks are made anew, in steps.
    rescale: whether groups have scales. They take a float32 for each group, a
      quarter of the weights at 2:4.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if a pattern is not N:M, the decay is not positive, or masks
      would never be made anew; from `init` if a group does not tile.

  References:
    Huang et al., `CAST: Continuous and Differentiable Semi-Structured
    Sparsity-Aware Training for Large Language Models
    <https://arxiv.org/abs/2509.25996>`_, 2025. There the decay is part of an
    Adam, AdamS; here it is a term of the gradient before any optimizer, so both
    moments of Adam see it, and scale it as they scale gradients. (The code of
    the authors' earlier `AST <https://arxiv.org/abs/2407.20584>`_ keeps decay
    out of the first moment.) There scales are trained; here they follow from
    the weights, and the gradient at `w~` goes straight through. The default of
    `decay` is ours.

  >>> import optax
  >>> from jaxsparse import nm, sparse_params, sparsify
  >>> tx = sparsify(optax.sgd(.2), cast({'.*': nm(2, 4)}, 20, decay=4.))
  >>> w = jnp.array([[3.], [4.], [1.], [2.]])
  >>> state = tx.init(w)
  >>> for _ in range(20):  # To be near (3, 4, 1, 2), and half of it zero.
  ...   grads = sparse_params(w, state) - jnp.array([[3.], [4.], [1.], [2.]])
  ...   updates, state = tx.update(grads, state, w)
  ...   w = optax.apply_updates(w, updates)
  >>> print(sparse_params(w, state)[:, 0].round())
  [3. 4. 0. 0.]
  """
  targets_of(patterns)
  if not callable(decay) and not decay > 0:
    raise ValueError(
        'cast needs a decay above 0, or no pruned weight becomes zero, got '
        f'decay={decay}. Write e.g. decay=0.1.')
  if not 1 <= every <= total_steps:
    raise ValueError(
        f'cast(every={every}) would never make its masks anew in '
        f'total_steps={total_steps}. Write 1 <= every <= total_steps, e.g. '
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
  """The root of what each group had for what is kept of it."""
  def scale(path, w, mask, pattern):
    if trees.is_dense(mask):
      return None
    if pattern is None:
      raise ValueError(
          f'{path}: another rule prunes it, and cast has scales for its own '
          'patterns. Write cast(..., rescale=False).')
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
  return jnp.sum(numerics.split_axes(jnp.square(numerics.wide(w)), tile),
                 tuple(range(1, 2 * w.ndim, 2)))


def _root(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """The root of a quotient, or 1 where there is nothing to divide by."""
  some = denominator > 0
  return jnp.where(some, jnp.sqrt(numerator / jnp.where(
      some, denominator, jnp.ones_like(denominator))), 1.)
