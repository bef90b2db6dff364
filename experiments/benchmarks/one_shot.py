"""Times one-shot pruning of a matrix against inverting its statistics.

  python -m experiments.benchmarks.one_shot --size=4096

Prunes a `size` x `size` matrix. Every row is the median of interleaved runs in
one process, relative to one Cholesky factorization and one inverse of a matrix
of the same size in JAX. Every method with second-order statistics begins with
these (ALPS with eigenvectors). The goal for SparseGPT is at most 6 times this
at 4096.
"""

import functools
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
import jaxsparse
from jaxsparse import calibration

_SIZE = flags.DEFINE_integer('size', 1024, 'Inputs, and outputs.',
                             lower_bound=16)
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Repeats of each function.',
                                lower_bound=1)
_SKIP = flags.DEFINE_list('skip', [], 'Rows to leave out, such as alps.')
_GOAL = 6.


def problem(size: int) -> tuple[jax.Array, jax.Array]:
  """Weights, and the second moments of correlated inputs.

  Args:
    size: the number of inputs and of outputs.
  """
  w, mix, noise = (jax.random.normal(jax.random.key(seed), (size, size))
                   for seed in range(3))
  x = mix[:, :size // 4] @ mix[:size // 4] / jnp.sqrt(size) + noise
  return w, x.T @ x


def factor_and_inverse(w: jax.Array, h: jax.Array
                       ) -> tuple[jax.Array, jax.Array]:
  """Returns the results of the baseline, a factorization and an inverse."""
  del w
  damped = h + .01 * jnp.mean(jnp.diagonal(h)) * jnp.eye(len(h))
  return jnp.linalg.cholesky(damped), jnp.linalg.inv(damped)


def functions() -> dict[str, Any]:
  """Returns the benchmarked functions of weights and moments, by name."""
  half = jaxsparse.unstructured(.5)

  def refit(w, h):
    mask = calibration.wanda(w, jnp.diagonal(h), half)
    return calibration.refit(w, h, mask, steps=10, tolerance=0.)

  return {
      'Cholesky and inverse': factor_and_inverse,
      'wanda': lambda w, h: calibration.wanda(w, jnp.diagonal(h), half),
      'sparsegpt': functools.partial(calibration.sparsegpt, pattern=half),
      'sparsegpt, as published': functools.partial(
          calibration.sparsegpt, pattern=half, compete='block'),
      'sparsegpt, 2:4': functools.partial(
          calibration.sparsegpt, pattern=jaxsparse.nm(2, 4)),
      'admm, 20 steps': functools.partial(calibration.admm, pattern=half),
      'alps': functools.partial(calibration.alps, pattern=half),
      'wanda and refit, 10 steps': refit,
  }


def main(argv: list[str]) -> None:
  del argv
  print(f'{timing.describe()}\n')
  w, h = problem(_SIZE.value)
  compiling, compiled = {}, {}
  chosen = {name: f for name, f in functions().items()
            if name not in _SKIP.value}
  for name, f in chosen.items():
    compiling[name], made = timing.compiled(f, w, h)
    compiled[name] = functools.partial(made, w, h)
  times = timing.interleaved(compiled, _REPEATS.value)
  first, *_ = times
  timing.print_table(
      [f'{_SIZE.value} x {_SIZE.value} f32', 'ms', f'x {first}', 'goal',
       'compiling, s'],
      [[name, ms, ms / times[first],
        f'<= {_GOAL:g}' if name == 'sparsegpt' else '', compiling[name]]
       for name, ms in times.items()])


if __name__ == '__main__':
  app.run(main)
