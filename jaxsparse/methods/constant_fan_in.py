"""Constant fan-in: SRigL, RigL whose neurons all read equally many inputs.

  patterns = {'.*kernel': jaxsparse.unstructured(balanced=True)}
  tx = jaxsparse.sparsify(optax.sgd(0.1, 0.9), methods.srigl(
      patterns, 0.9, total_steps=10_000, ties=ties))

Neurons that earn too few weights die, and the others share their weights. In
the end `slim` removes dead neurons and `packed.condense` stores the others.
"""

from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse.masks import exact_counts as counts
from jaxsparse.masks import selection
from jaxsparse.masks.selection import Kept
from jaxsparse.methods import _fan_in
from jaxsparse.methods import _periods
from jaxsparse.methods import _targets
from jaxsparse.methods._targets import Sparsity
from jaxsparse.patterns import Pattern
from jaxsparse.rules import base
from jaxsparse.transform import Method
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '100'),
    sparsity=_targets.SPARSITY)
def srigl(patterns: rules.Patterns, sparsity: Sparsity, total_steps: int, *,
          ties: Ties | Sequence[Tie] | None = None,
          spare: str | Sequence[str] | None = None, gamma: float = 0.3,
          fraction: float = 0.3, every: int = 100, end: int | None = None,
          replace_step: bool = True, seed: int = 0) -> Method:
  """SRigL: RigL with a constant fan-in, in which neurons die.

  A layer of `N` neurons may keep `T` weights, at least `N`. Its first fan-in is
  `T // N`. Every `every` steps an exchange drops `D = floor(f * n)` of the
  layer's `n` weights, where `f` falls from `fraction` to 0 by a cosine. The
  salient weights are the `n - D` kept weights of the largest magnitude and the
  `D` weights of the largest gradients, kept or not. A neuron with fewer than
  `max(1, floor(gamma * (T // N)))` salient weights dies. If too few neurons
  would be left to hold `T` weights, the exchange lowers `gamma`. Then

  1. the fan-in becomes `T // living`, where `living` counts the neurons that
     are left, or the number of living inputs if that is smaller;
  2. the `n - D` largest weights of the living neurons stay, but no neuron keeps
     more than the fan-in, and it keeps its largest;
  3. each living neuron grows weights up to the fan-in, where its gradients are
     largest.

  All living neurons of a layer have the same fan-in at every step. The equal
  fan-in comes before the count: a layer has at most `T` weights, and lacks
  fewer than `living` of them unless its inputs are used up.

  Args:
    patterns: maps regular expressions for paths to
      `unstructured(balanced=True)`; `None` is dense. `graph.kernel_patterns`
      finds the axes of kernels that are not `[..., in, out]`. One parameter is
      one layer, also if it stacks the kernels of several layers.
    sparsity: the fraction pruned, shared among layers by `erk`, or a
      distribution.
    total_steps: the length of training, in steps.
    ties: the ties of the function, from `infer_ties`. With ties, a neuron dies
      as a unit: every kernel that reads it loses the weights, so that
      `slim(params, ties, alive(params, ties))` removes the unit, and the unit
      stays dead. A unit can die if it may be removed, if one kernel alone makes
      it, and if all kernels that make or read it have patterns. The outputs of
      the function never die. Without ties, a dead neuron still outputs what its
      bias gives, and comes back when its gradients become salient.
    spare: a regular expression, or a sequence of them, for the kernels whose
      neurons all live. Without ties, name the last layer here, or write `()` to
      let neurons of all layers die, as in the released code.
    gamma: the share of the first fan-in that must be salient; the paper has
      0.95 for a ViT. With 0, no neuron dies.
    fraction: the share of a layer's weights that the first exchange drops.
    every: the number of steps between two exchanges.
    end: the last step at which connections move; by default 75% of training.
    replace_step: whether a step with an exchange leaves the weights alone, see
      `rigl`.
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a pattern is not balanced, if connections would never move,
      if every step would be replaced by an exchange, if a share is outside of
      [0, 1], or if neurons can die and there are neither ties nor `spare`; from
      `init`, if no tie has units that can die.

  References:
    Lasby et al., `Dynamic Sparse Training with Structured Sparsity
    <https://arxiv.org/abs/2305.02299>`_, 2024. Where a neuron has more salient
    weights than the fan-in, the released code keeps arbitrary ones of them;
    here the largest stay. The released code has no ties.

  >>> from jaxsparse.patterns import unstructured
  >>> method = srigl({'.*': unstructured(balanced=True)}, 0.75,
  ...                total_steps=100, every=10, spare=())
  >>> method.rule.init({'kernel': jnp.ones((8, 4))}).masks['kernel'].sum(0)
  Array([2, 2, 2, 2], dtype=int32)
  """
  _periods.check_shares(fraction=fraction, gamma=gamma)
  for regex, pattern in patterns.items():
    if pattern is not None and not _is_balanced(pattern):
      raise ValueError(
          f'{regex!r}: srigl needs a pattern in which the inputs of a neuron '
          f'compete, got {pattern}. Write unstructured(balanced=True).')
  if gamma and ties is None and spare is None:
    raise ValueError(
        'srigl lets neurons die, and nothing says which ones the network '
        'returns. Give ties=infer_ties(apply, params, x), or name the last '
        "layer, spare='head/kernel', spare=() for none, or write gamma=0.")
  end = _periods.end_of(total_steps, 0.75, end, every, fades=True)
  when, fade = _periods.fading(every, end), schedules.fade_cosine(0, end)
  flow = flows.hard()
  if replace_step:
    flow = _periods.replacing(flow, when, 'srigl', every)
  spare = (spare,) if isinstance(spare, str) else tuple(spare or ())
  return Method(_rule(
      patterns, _targets.shared(sparsity, distributions.erk), when,
      lambda step: fraction * fade(step), gamma, scores.random(seed), ties,
      spare), flow)


def _is_balanced(pattern: Pattern) -> bool:
  """Whether single weights compete with all along some axes, and no others."""
  def sizes(tiling):
    return {tiling.rest, *(size for _, size in tiling.sizes)}
  return sizes(pattern.unit) == {1} and sizes(pattern.group) == {None, 1}


def _rule(patterns: rules.Patterns, distribution: distributions.Distribution,
          when: schedules.When, fraction: schedules.Schedule, gamma: float,
          first: scores.Score, ties: Ties | Sequence[Tie] | None,
          spare: Sequence[str]) -> rules.Rule:
  scored_by = [optax.with_extra_args_support(score) for score in (
      scores.magnitude(), scores.gradient())]

  def targets(make, like, shapes):
    """`T` of each layer and its first fan-in: vectors."""
    kept = distributions.budgets(
        distribution, make, jax.tree.map(_fan_in.whole, shapes), 1.)
    neurons = [layer.neurons for layer in _fan_in.layers_of(like, shapes)]
    target = counts.maximum(
        counts.stack([k.count for _, x, k in trees.align(like, kept)
                      if x.size]), counts.exactly_each(neurons))
    return target, counts.divide(target, jnp.array(neurons, jnp.uint32))

  def init(params):
    shapes = base.resolve(patterns, params)
    sparse = base.sparse_only(params, shapes)
    make = lambda: base.initial_scores(first, sparse)
    layers, fan_in = _fan_in.layers_of(sparse, shapes), {}
    if layers:
      fan_in = dict(zip((layer.path for layer in layers), counts.unstack(
          targets(make, sparse, shapes)[1])))
    masks = selection.select_each(make, shapes, trees.map_with_path(
        lambda path, w: Kept(fan_in.get(path, counts.exactly(0))), sparse))
    if gamma:
      _fan_in.rooms_of(ties, spare, params, masks)  # Raises if ties do not fit.
    return base.RuleState(
        jnp.zeros((), jnp.int32), masks,
        tuple(score.init(sparse) for score in scored_by), jnp.zeros((), bool))

  def update(grads, state, params=None, *, updates=None, **extra_args):
    step, shapes, scored = base.moment(
        patterns, state, grads, params, updates, **extra_args)
    masks = base.sparse_only(state.masks, shapes)
    both = lambda: [scored(*row) for row in zip(scored_by, state.scores)]

    def exchange():
      layers = _fan_in.layers_of(masks, shapes)
      if not layers:
        return masks
      target, at_first = targets(lambda: both()[0][0], masks, shapes)
      new = _fan_in.exchange(
          layers, lambda: [[x for _, x in trees.align(tree) if x.size]
                           for tree, _ in both()], target, fraction(step),
          counts.share_of(at_first, gamma),
          _fan_in.rooms_of(ties, spare, params, masks) if gamma else None)
      by_path = dict(zip((layer.path for layer in layers), new))
      return trees.map_with_path(lambda path, m: by_path.get(path, m), masks)

    due = when(step)
    new = base.run_if(due, exchange, state.masks)
    return new, base.RuleState(
        step, new, tuple(memory for _, memory in both()), jnp.asarray(due))

  return base.Rule(init, update)
