"""GraNet: gradual pruning, with regrowth of weights that have large gradients.

  tx = jaxsparse.sparsify(
      optax.sgd(0.1, 0.9), methods.granet(patterns, 0.9, total_steps=10_000))

GraNet combines gradual pruning with dynamic sparse training: the sparsity rises
gradually, and every pruning step also drops and grows connections.
"""

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse._utils import arguments
from jaxsparse.methods import _periods
from jaxsparse.transform import Method


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '100'))
def granet(patterns: rules.Patterns, sparsity: float, total_steps: int, *,
           initial_sparsity: float = 0.5, fraction: float = 0.5,
           last_fraction: float = 0.005, every: int = 100, begin: int = 0,
           end: int | None = None, seed: int = 0) -> Method:
  """GraNet: gradual global pruning, and regeneration in each layer.

  Every `every` steps the rule prunes all layers together by magnitude, to the
  sparsity

    s_t = sparsity + (initial_sparsity - sparsity) * (1 - p)^3

  with `p = (step - begin) / (end - begin)`. Then each layer drops a share of
  its remaining weights, again by magnitude, and grows as many weights where the
  gradient is largest. The share falls from `fraction` by a cosine to
  `last_fraction` at the end of training, so regeneration continues after the
  sparsity is final.

  A weight that one exchange drops and grows again keeps its value, as in the
  released code.

  Args:
    patterns: maps regular expressions for paths to `unstructured()`, blocks or
      channels; `None` is dense.
    sparsity: the fraction of all sparse parameters that is pruned at the end.
    total_steps: the length of training, in steps.
    initial_sparsity: the sparsity at the start, shared by `erk`. With 0
      training starts dense, which the paper calls dense-to-sparse. The sparsity
      of a pattern with its own rises in the same proportion.
    fraction: the share of a layer's active weights that the first exchange
      replaces.
    last_fraction: the share of a layer's active weights that is replaced at the
      end of training.
    every: the number of steps between two exchanges; 4,000 on ImageNet.
    begin: the first step at which weights are pruned and connections move.
    end: the step at which the sparsity is final; by default 30% of training
      (epoch 30 of 100 on ImageNet).
    seed: the seed of the first masks.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if no step is left to prune in, a share is outside of [0, 1], or
      the sparsity would fall.

  References:
    Liu et al., `Sparse Training via Boosting Pruning Plasticity with
    Neuroregeneration <https://arxiv.org/abs/2106.10404>`_, 2021. The sparsity
    is exact here, and final at `end` even if `end` is no multiple of `every`.
    The released code keeps one weight less at each pruning, and omits the last
    pruning if `end` is no multiple of the period.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> from jaxsparse import unstructured
  >>> rule = granet({'.*': unstructured()}, 0.9, 30, every=3).rule
  >>> w = jax.random.normal(jax.random.key(0), (10, 10))
  >>> state, active, update = rule.init(w), [], jax.jit(rule.update)
  >>> for _ in range(10):
  ...   masks, state = update(w, state, w)
  ...   active.append(int(masks.sum()))
  >>> active  # From 50% to 10% by step 9, 30% of 30.
  [50, 50, 22, 22, 22, 11, 11, 11, 10, 10]
  """
  _periods.check_shares(fraction=fraction, last_fraction=last_fraction)
  if callable(sparsity) or not 0 <= initial_sparsity <= sparsity <= 1 or (
      sparsity == 0):
    raise ValueError(
        'granet needs numbers 0 <= initial_sparsity <= sparsity <= 1 with '
        f'sparsity > 0, got initial_sparsity={initial_sparsity!r:.40} and '
        f'sparsity={sparsity!r:.40}. Write e.g. sparsity=0.9, '
        'initial_sparsity=0.5.')
  end = int(total_steps * 0.3) if end is None else end
  if not 0 <= begin < end <= total_steps or not 0 < every <= total_steps:
    raise ValueError(
        'granet needs 0 <= begin < end <= total_steps and 0 < every <= '
        f'total_steps, all in steps, got begin={begin}, end={end} and '
        f'every={every} of total_steps={total_steps}. Write e.g. '
        f'every={max(total_steps // 100, 1)}.')
  fade = schedules.fade_cosine(0, total_steps)
  first = max(-(-begin // every), 1) * every  # On the period's phase.
  return Method(rules.prune_and_grow(
      patterns, sparsity=distributions.global_threshold(sparsity),
      init_sparsity=distributions.erk(initial_sparsity),
      schedule=schedules.from_initial(
          schedules.cubic(begin, end), initial_sparsity / sparsity),
      grow=scores.gradient(),
      fraction=lambda step: (
          last_fraction + (fraction - last_fraction) * fade(step)),
      when=schedules.every(every, begin=first, end=max(first, total_steps)),
      init=scores.random(seed)), flows.hard())
