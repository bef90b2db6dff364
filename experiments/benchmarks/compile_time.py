"""Measures the time to compile a train step, and the memory it adds.

  python -m experiments.benchmarks.compile_time

Uses the shapes of ResNet-50 and runs nothing. Prints the seconds to trace and
compile `jit(tx.init)` and the update, whose params and state are donated,
against plain Adam in the same process. Also prints the size of the temporaries
of the update, in multiples of the size of the params.
"""

from typing import Any

from absl import app
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import selection
from experiments.benchmarks import timing
from experiments.benchmarks import train_step
import jaxsparse
from jaxsparse import methods
from jaxsparse import schedules

_FREE = {'.*': jaxsparse.unstructured()}


def _gradual(distribution: jaxsparse.distributions.Distribution) -> Any:
  return jaxsparse.prune(
      _FREE, distribution=distribution, schedule=schedules.cubic(0, 10_000),
      when=schedules.every(100))


def _methods() -> dict[str, Any]:
  """name -> rule or method, `None` for plain Adam."""
  return {
      'plain Adam': None,
      'uniform': _gradual(jaxsparse.uniform(0.9)),
      'erk': _gradual(jaxsparse.erk(0.9)),
      'global_threshold': _gradual(jaxsparse.global_threshold(0.9)),
      'RigL': methods.rigl(_FREE, 0.9, 10_000),
      'SET': methods.set_training(_FREE, 0.9, 10_000),
      'Chase, no channels': methods.chase(
          _FREE, 0.9, 10_000, ties=[], channel_sparsity=0.),
  }


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe(), '\n')
  jax.config.update('jax_enable_compilation_cache', False)
  params = {f'{i:02}/kernel': jax.ShapeDtypeStruct(s, jnp.float32)
            for i, s in enumerate(selection.resnet50_shapes())}
  size = 4 * sum(w.size for w in params.values())
  rows, plain = [], None
  for name, method in _methods().items():
    adam = optax.adam(1e-3)
    tx = adam if method is None else jaxsparse.sparsify(adam, method)
    init, _ = timing.compiled(tx.init, params)
    update, compiled = timing.compiled(
        train_step.after_backward(tx), params,
        jax.eval_shape(tx.init, params), params, donate_argnums=(0, 1))
    plain = plain or init + update
    rows.append([
        name, init, update, (init + update) / plain,
        '' if method is None else '<= 4',
        compiled.memory_analysis().temp_size_in_bytes / size])
  timing.print_table(
      [f'{len(params)} kernels, {size / 4e6:.1f}M weights', 'init, s',
       'update, s', 'x plain Adam', 'goal', 'temporaries, x params'], rows)


if __name__ == '__main__':
  app.run(main)
