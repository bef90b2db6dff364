"""AC/DC: phases of dense and of sparse training take turns.

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

  Dense training for `warm_up` steps; then `period` steps sparse and `period`
  steps dense in turn; then the last dense phase, until the last `fine_tune`
  steps, which are sparse. Of 100 epochs, with the defaults:

    | dense | sparse, dense, ..., sparse |  dense  | sparse |
    0       10    15     20     70      75        85       100

  A sparse phase begins with masks by magnitude, which it keeps to its end. A
  dense phase begins with the pruned weights at zero, and the optimizer's
  moments at their start (`flows.reset_state`): they belong to a sparse network.
  All patterns will do.

  Args:
    patterns: regular expressions to patterns, `None` for dense.
    sparsity: the fraction of all sparse parameters pruned, under one threshold,
      or a distribution, such as `uniform()` of N:M patterns.
    total_steps: the length of training.
    warm_up: the steps of the first dense phase; 10% of training by default.
    period: the steps of a phase; 5% of training by default.
    fine_tune: the steps of the last sparse phase; 15% by default.

  Returns:
    A method: rule and flow.

  Raises:
    ValueError: if no sparse and no dense phase fit between the first and the
      last.

  References:
    Peste et al., `AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks <https://arxiv.org/abs/2106.12379>`_, 2021. Its code resets
    the momentum of SGD; here every optimizer forgets, its bias correction
    included, while the learning rate goes on.

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
        f'warm_up={warm_up}, period={period} and fine_tune={fine_tune} of '
        f'total_steps={total_steps}, all in steps and 1 at least, leave no '
        'room for a sparse and a dense phase of one period between them. Write '
        f'e.g. period={max((last - warm_up) // 2, 1)}, or train longer.')
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
  """At which of the steps in a list one is."""
  return lambda step: (
      jnp.asarray(step)[..., None] == jnp.array(steps)).any(-1)
