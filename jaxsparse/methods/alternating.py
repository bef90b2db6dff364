"""AC/DC: phases of dense and of sparse training alternate.

  tx = jaxsparse.sparsify(
      optax.sgd(0.1, 0.9), methods.ac_dc(patterns, 0.9, total_steps=10_000))
"""

import jax.numpy as jnp

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import rules
from jaxsparse._utils import arguments
from jaxsparse.methods import _targets
from jaxsparse.transform import Method


@arguments.checked(
    sparsity=_targets.SPARSITY,
    total_steps=arguments.step(1, '10_000'))
def ac_dc(patterns: rules.Patterns,
          sparsity: float | distributions.Distribution, total_steps: int, *,
          warm_up: int | None = None, period: int | None = None,
          fine_tune: int | None = None) -> Method:
  """AC/DC: alternating compressed and decompressed training.

  Training is dense for `warm_up` steps. Then sparse and dense phases of
  `period` steps each alternate. The last dense phase lasts until the last
  `fine_tune` steps, which are sparse. For 100 epochs, with the defaults:

    | dense | sparse, dense, ..., sparse |  dense  | sparse |
    0       10    15     20     70      75        85       100

  A sparse phase begins with masks by magnitude, and keeps them to its end. At
  the beginning of a dense phase the pruned weights are zero, and
  `flows.reset_state` resets the optimizer's moments, because these belong to
  the sparse network. Any pattern works.

  Args:
    patterns: maps regular expressions for paths to patterns; `None` is dense.
    sparsity: the fraction of all sparse parameters that is pruned, under one
      threshold; or a distribution, such as `uniform()` for N:M patterns.
    total_steps: the length of training, in steps.
    warm_up: the number of steps of the first dense phase; 10% of training by
      default.
    period: the number of steps of a phase; 5% of training by default.
    fine_tune: the number of steps of the last sparse phase; 15% of training by
      default.

  Returns:
    A `Method`: a rule and a flow.

  Raises:
    ValueError: if a sparse and a dense phase do not fit between the first dense
      and the last sparse phase.

  References:
    Peste et al., `AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks <https://arxiv.org/abs/2106.12379>`_, 2021. The released
    code resets the momentum of SGD; here the moments and the bias correction of
    every optimizer are reset, while the learning rate schedule continues.

  >>> import jax
  >>> import optax
  >>> from jaxsparse import sparsify, unstructured
  >>> tx = sparsify(optax.sgd(0.1), ac_dc({'.*': unstructured()}, 0.5, 20))
  >>> w = jnp.arange(1., 5.)
  >>> state, active, update = tx.init(w), [], jax.jit(tx.update)
  >>> for _ in range(20):
  ...   updates, state = update(jnp.ones(4), state, w)
  ...   w = optax.apply_updates(w, updates)
  ...   active.append(int(state.masks.sum()))
  >>> active
  [4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 4, 2, 2, 2, 2]
  """
  warm_up, period, fine_tune = (
      max(total_steps * share // 100, 1) if steps is None else steps
      for steps, share in ((warm_up, 10), (period, 5), (fine_tune, 15)))
  last = total_steps - fine_tune
  if min(warm_up, period, fine_tune) < 1 or warm_up + 2 * period > last:
    raise ValueError(
        'ac_dc needs room for a sparse and a dense phase of one period each '
        f'between warm_up and fine_tune, got warm_up={warm_up}, '
        f'period={period} and fine_tune={fine_tune} of total_steps='
        f'{total_steps} (all in steps, at least 1). Write e.g. '
        f'period={max((last - warm_up) // 2, 1)}, or train longer.')
  begins = range(warm_up, last - 2 * period + 1, 2 * period)
  ends = [begin + period for begin in begins]
  switches = sorted([*begins, *ends, last])

  def sparse(step):
    passed = (jnp.asarray(step)[..., None] >= jnp.array(switches)).sum(-1)
    return (passed % 2).astype(jnp.float32)

  return Method(
      rules.prune(patterns, distribution=(
          sparsity if callable(sparsity)
          else distributions.global_threshold(sparsity)),
                  schedule=sparse, when=_at(switches)),
      flows.hard()._replace(
          around=lambda inner: flows.reset_state(inner, _at(ends))))


def _at(steps):
  """A function from step to bool, true at the listed steps."""
  return lambda step: (
      jnp.asarray(step)[..., None] == jnp.array(steps)).any(-1)
