"""Observation: measurements of a sparse optimizer during training.

`observe` wraps an optimizer that contains `sparsify`. Its state holds a few
numbers for each layer: mask flips, the noise of gradients, and the densities
that FLOPs are computed from. `observed` reads these numbers.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from jaxsparse import transform
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.masks import accounting


class Statistics(NamedTuple):
  """The measurements of one sparse layer, or arrays `[layers]` for all layers.

  Attributes:
    second_kept: the running mean of `Var(v)` over the kept weights, with `v`
      the bias-corrected second moment of the gradient.
    second_pruned: the running mean of `Var(v)` over the pruned weights; 0 if
      there are none.
    gradient_kept: the running mean of `Var(|g|)` over the kept weights.
    gradient_pruned: the running mean of `Var(|g|)` over the pruned weights; 0
      if there are none.
    flips: the number of mask entries that the last step changed, in both
      directions. The sum over layers is the sparse-architecture divergence of
      the SR-STE paper.
    mean_flips: the running mean of `flips`.
    forward: the mean over all steps of the density of the forward pass. The
      density counts as 1 while pruned weights have a gain above 0.
    gradient: the mean over all steps of the share of weights whose gradient is
      used. The share is the density of the mask if the flow is hard, the
      density of the backward set for Top-KAST, and 1 otherwise (which
      overstates `mdgf(straight_through=False)` after its gain is 0). A step at
      which a rule grows weights by gradient counts as 1.
    explored: the share of weights that were kept at any step so far, the
      exploration rate `R_s` of ITOP.
  """
  second_kept: jax.Array
  second_pruned: jax.Array
  gradient_kept: jax.Array
  gradient_pruned: jax.Array
  flips: jax.Array
  mean_flips: jax.Array
  forward: jax.Array
  gradient: jax.Array
  explored: jax.Array


class ObservedState(NamedTuple):
  """The state of `observe`.

  Attributes:
    inner: the state of the observed optimizer.
    count: the number of updates with finite gradients, int32.
    second: the second moments of the gradients of sparse parameters, float32.
    visited: the union of all masks so far.
    statistics: float32 arrays `[layers]`, in the order of `jax.tree.leaves`. If
      no layer is sparse, they have one meaningless entry.
  """
  inner: Any
  count: jax.Array
  second: Any
  visited: Any
  statistics: Statistics


@arguments.checked()
def observe(tx: optax.GradientTransformation, *, decay: float = 0.99,
            second_decay: float = 0.999
            ) -> optax.GradientTransformationExtraArgs:
  """Measures mask flips, gradient noise and densities of a sparse optimizer.

  The updates of `tx` are not changed. The measured gradients are those given to
  `update`, the dense gradients at the sparse point, and a weight counts as kept
  or pruned by the mask under which its gradient was taken. Running means are
  plain means over the first `1 / (1 - decay)` steps, and exponential means
  afterwards. A step whose gradients are not finite, which
  `optax.apply_if_finite` skips, counts for `flips` and `explored` alone.

  Args:
    tx: an optimizer that contains `sparsify`.
    decay: the decay of the running means.
    second_decay: the decay of the second moments, like `b2` of Adam.

  Returns:
    An optax transformation with an `ObservedState`. `get_masks` and
    `sparse_params` accept this state.

  Raises:
    ValueError: from `init` unless there is exactly one `SparseState`.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024 (noise);
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021 (divergence);
    Liu et al., `Do We Actually Need Dense Over-Parameterization? In-Time
    Over-Parameterization in Sparse Training
    <https://arxiv.org/abs/2102.02887>`_, 2021 (exploration)

  >>> from jaxsparse import flows, patterns, rules
  >>> tx = observe(transform.sparsify(
  ...     optax.sgd(1.), rules.prune({'.*': patterns.nm(1, 2)}), flows.ste()))
  >>> w = {'kernel': jnp.array([[1.], [2.]])}
  >>> state = tx.init(w)
  >>> _, state = tx.update({'kernel': jnp.array([[-2.], [0.]])}, state, w)
  >>> print(observed(state)['kernel'].flips)
  2.0
  """
  tx = optax.with_extra_args_support(tx)

  def init(params):
    inner = tx.init(params)
    masks = transform.get_masks(inner)
    # At least one entry: checkpoints reject the empty arrays of a dense model.
    layers = max(len(jax.tree.leaves(masks)), 1)
    second = jax.tree.map(lambda m: jnp.zeros_like(m, jnp.float32), masks)
    # Arrays of their own, because a train step may donate each only once.
    visited = jax.tree.map(jnp.copy, masks)
    statistics = Statistics(*(
        jnp.zeros(layers, jnp.float32) for _ in Statistics._fields))
    if jax.tree.leaves(masks):
      statistics = statistics._replace(explored=_density(masks))
    return ObservedState(
        inner, jnp.zeros((), jnp.int32), second, visited, statistics)

  def update(grads, state, params=None, **extra_args):
    updates, inner = tx.update(grads, state.inner, params, **extra_args)
    before, after = (transform.state_of(s) for s in (state.inner, inner))
    count = state.count + 1
    if not jax.tree.leaves(before.masks):
      return updates, state._replace(inner=inner, count=count)
    t = count.astype(jnp.float32)
    sparse = _beside_masks(grads, before.masks)
    second = jax.tree.map(
        lambda v, g: second_decay * v + (1. - second_decay) * jnp.square(g),
        state.second, sparse)

    def noise(g, mask, v):
      v = v / (1. - second_decay**t)
      return jnp.stack([*_variances(v, mask), *_variances(jnp.abs(g), mask)])
    seen = jnp.stack(jax.tree.leaves(
        jax.tree.map(noise, sparse, before.masks, second)), axis=1)
    flips = _stack(accounting.mask_flips(before.masks, after.masks))
    visited = jax.tree.map(jnp.logical_or, state.visited, after.masks)
    densities = _densities(before, after)
    running = jnp.maximum(1. - decay, 1. / t)
    now = Statistics._make(
        [*seen, flips, flips, *densities, _density(visited)])
    one = jnp.ones((), jnp.float32)
    rate = Statistics._make(
        [*[running] * 4, one, running, 1. / t, 1. / t, one])
    statistics = jax.tree.map(
        lambda old, new, r: old + r * (new - old), state.statistics, now, rate)
    count, second, statistics = numerics.if_finite(
        sparse, (count, second, statistics),
        (state.count, state.second, state.statistics))
    return updates, ObservedState(
        inner, count, second, visited,
        statistics._replace(flips=now.flips, explored=now.explored))

  return optax.GradientTransformationExtraArgs(init, update)


def _beside_masks(grads: ArrayTree, masks: ArrayTree) -> Any:
  """The gradients of sparse parameters, float32, in the structure of masks.

  Inside of `optax.partition` a whole branch may have one placeholder.
  """
  found = trees.beside(grads, masks)
  if found is None:
    trees.same_structure(grads, masks)  # Raises, and names what differs.
  leaves, structure = trees.flatten_dense(masks)
  return structure.unflatten([
      m if trees.is_dense(m) else g.astype(jnp.float32)
      for g, m in zip(found or (), leaves)])


def _stack(tree: Any) -> jax.Array:
  return jnp.stack([x.astype(jnp.float32) for x in jax.tree.leaves(tree)])


def _variances(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The variances over kept and over pruned entries, 0 if there are none."""
  def variance(chosen):
    n = jnp.maximum(chosen.sum(dtype=jnp.float32), 1.)
    mean = jnp.where(chosen, x, 0.).sum() / n
    return jnp.where(chosen, jnp.square(x - mean), 0.).sum() / n
  return variance(mask), variance(~mask)


def _density(masks: ArrayTree) -> jax.Array:
  return _stack(jax.tree.map(
      # No int32 may hold the size of a stack of layers.
      lambda m: m.sum(dtype=jnp.float32) / float(max(m.size, 1)), masks))


def _densities(state: transform.SparseState, after: transform.SparseState
               ) -> tuple[jax.Array, jax.Array]:
  """The shares of each layer in the forward pass and in its gradient."""
  kept = _density(state.masks)
  if state.gain is None:
    dense = getattr(after.rule, 'dense', None)
    return kept, kept if dense is None else jnp.where(dense, 1., kept)
  forward = jnp.where(state.gain > 0, 1., kept)
  if hasattr(state.rule, 'backward'):
    return forward, _density(state.rule.backward)
  return forward, jnp.ones_like(kept)


def observed(opt_state: ArrayTree) -> dict[str, Statistics]:
  """Reads the measurements of `observe`, by the path of each sparse layer.

  `Flops.training` takes the densities:

    seen = observed(opt_state)
    spent = steps * counted.training(
        forward={path: s.forward for path, s in seen.items()},
        gradient={path: s.gradient for path, s in seen.items()})

  Args:
    opt_state: the state of `observe` or of anything around it.

  Returns:
    Maps paths to `Statistics` of scalars, of NumPy outside of `jax.jit`.

  Raises:
    ValueError: unless there is exactly one `ObservedState`.
  """
  states = trees.nodes(opt_state, ObservedState)
  if len(states) != 1:
    raise ValueError(
        'observed needs one ObservedState in the optimizer state, found '
        f'{len(states)}. Write tx = jaxsparse.observe(jaxsparse.sparsify(...)).'
    )
  names = trees.paths(transform.get_masks(states[0]))
  found = states[0].statistics
  if all(map(_is_here, found)):  # Each `x[i]` is a program.
    found = jax.device_get(found)
  return {name: Statistics(*(x[i] for x in found))
          for i, name in enumerate(names)}


def _is_here(x: jax.Array) -> bool:
  """Whether this process can read an array, which is no tracer."""
  if isinstance(x, jax.core.Tracer):
    return False
  return not isinstance(x, jax.Array) or (
      x.is_fully_addressable or x.is_fully_replicated)


@arguments.checked(steps=arguments.step(1, '100'))
def rehearse(method: transform.Method | optax.GradientTransformation,
             params: ArrayTree, *, steps: int) -> dict[str, Statistics]:
  """Computes the densities of a training with a method, without training.

  Rule and flow run for `steps` steps on constant weights. The result has the
  densities, and so the FLOPs, of all methods whose densities do not depend on
  the weights: N:M, `uniform` and `erk`. Only `forward` and `gradient` of the
  result are meaningful.

  Args:
    method: a method such as `methods.sr_ste(...)` or `Method(rule, flow)`; or a
      rule, whose flow is then `hard()`.
    params: any weights of the right shapes. A rule that acts at every step is
      slow on large weights.
    steps: the length of the training, in steps.

  Returns:
    A dict from paths to `Statistics`, as of `observed`.

  Raises:
    ValueError: from the rule, if a pattern does not fit a parameter.

  >>> from jaxsparse import flows, patterns, rules, schedules
  >>> rule = rules.prune({'.*': patterns.nm(1, 4)})
  >>> fades = transform.Method(rule, flows.mdgf(schedules.fade_linear(2, 5)))
  >>> seen = rehearse(fades, {'kernel': jnp.ones((4, 4))}, steps=10)
  >>> print(seen['kernel'].forward)  # 5 of 10 steps dense, then 1:4
  0.625
  """
  trees.check_arrays('params', params)
  tx = observe(transform.sparsify(optax.set_to_zero(), method))

  @jax.jit
  def run(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return lax.fori_loop(
        0, steps, lambda _, state: tx.update(zeros, state, params)[1],
        tx.init(params))
  return observed(run(params))
