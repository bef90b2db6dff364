"""GraNet: gradual pruning that grows back what it should not have pruned.

  tx = jaxsparse.sparsify(
      optax.sgd(0.1, 0.9), methods.granet(patterns, 0.9, total_steps=10_000))

Between pruning and dynamic sparse training: the network becomes sparser little
by little, and at each step of that connections move, too.
"""

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse._utils import arguments
from jaxsparse.transform import Method


@arguments.checked(
    total_steps=arguments.step(1, '10_000'), every=arguments.step(1, '100'))
def granet(patterns: rules.Patterns, sparsity: float, total_steps: int, *,
           initial_sparsity: float = 0.5, fraction: float = 0.5,
           last_fraction: float = 0.005, every: int = 100, begin: int = 0,
           end: int | None = None, seed: int = 0) -> Method:
  """GraNet: gradual global pruning, and regeneration in each layer.

  Every `every` steps, with `p = (step - begin) / (end - begin)`,

    s_t = sparsity + (initial_sparsity - sparsity) * (1 - p)^3

  of all weights are pruned, those of the smallest magnitude in all layers
  together. Then each layer drops a share of what it has left, again by
  magnitude, and grows as many where the gradient is largest. The share goes
  from `fraction` by a cosine to `last_fraction` at the end of training:
  regeneration goes on when the sparsity is final.

  A weight dropped and grown again at once keeps its value, as in the released
  code.

  Args:
    patterns: regular expressions to `unstructured()`, blocks or channels;
      `None` for dense.
    sparsity: the fraction of all sparse parameters pruned in the end.
    total_steps: the length of training.
    initial_sparsity: at the start, shared by `erk`; 0 starts dense, which the
      paper calls dense-to-sparse.
    fraction: the share of a layer's active weights replaced at first,
    last_fraction: and at the end.
    every: how often, in steps; 4,000 on ImageNet.
    begin: the step from which on weights are pruned and connections move.
    end: the step at which the sparsity is final; by default at 30% of the
      training (epoch 30 of 100 on ImageNet).
    seed: of the first masks.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no step is left to prune in, a share is none, or the sparsity
      would fall.

  References:
    Liu et al., `Sparse Training via Boosting Pruning Plasticity with
    Neuroregeneration <https://arxiv.org/abs/2106.10404>`_, 2021. The sparsity
    is exact here, and final at `end` though it be no multiple of `every`: the
    released code keeps one weight less of each cut, and leaves out the last if
    the epochs do not divide.

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
  for name, share in dict(fraction=fraction, last_fraction=last_fraction
                          ).items():
    if not 0 <= share <= 1:
      raise ValueError(f'{name} is a share and lies in [0, 1], got {share}. '
                       f'For 30% write {name}=0.3.')
  if callable(sparsity) or not 0 <= initial_sparsity <= sparsity <= 1 or (
      sparsity == 0):
    raise ValueError(
        'granet prunes from initial_sparsity to sparsity of all weights, got '
        f'initial_sparsity={initial_sparsity!r:.40} and sparsity='
        f'{sparsity!r:.40}. Write e.g. sparsity=0.9, initial_sparsity=0.5.')
  end = int(total_steps * 0.3) if end is None else end
  if not 0 <= begin < end <= total_steps or not 0 < every <= total_steps:
    raise ValueError(
        f'No weight would be pruned, or none of the others move: begin={begin},'
        f' end={end} and every={every} of total_steps={total_steps}, all in '
        'steps, need 0 <= begin < end <= total_steps and 0 < every <= '
        f'total_steps. Write e.g. every={max(total_steps // 100, 1)}.')
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
