"""Measures the time and memory that sparsity adds to an optimizer step.

  python -m experiments.benchmarks.train_step

Runs an Adam step on 10 million parameters without a model. Its inputs are
gradients, params and state; params and state are donated, as in any train step.
Ratios are against plain Adam in the same process.
"""

import functools
from typing import Any, Callable

from absl import app
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import timing
import jaxsparse
from jaxsparse import schedules

_PATTERNS = {'.*': jaxsparse.unstructured()}
_GRADUAL = functools.partial(
    jaxsparse.prune, _PATTERNS, distribution=jaxsparse.uniform(0.9),
    schedule=schedules.cubic(0, 10**6))


def _tree() -> dict[str, jax.Array]:
  rng = np.random.default_rng(0)
  return {f'layer_{i}': jnp.asarray(
      rng.standard_normal((1024, 1024), np.float32)) for i in range(10)}


def after_backward(tx: optax.GradientTransformation) -> Callable[..., Any]:
  """The part of a train step that follows the backward pass."""
  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
  return step


def _with_masked_weights(tx: optax.GradientTransformation
                         ) -> Callable[..., Any]:
  """Also masks the weights for the next forward pass, as STE needs it."""
  def step(params, state, grads):
    params, state = after_backward(tx)(params, state, grads)
    return params, state, jaxsparse.sparse_params(params, state)
  return step


def _methods() -> dict[str, tuple[optax.GradientTransformation, bool, str]]:
  """name -> (optimizer, whether forward weights are counted, goal)."""
  adam, sparsify = optax.adam(1e-3), jaxsparse.sparsify
  nm = jaxsparse.prune({'.*': jaxsparse.nm(2, 4)})
  ste, sr_ste = jaxsparse.ste(), jaxsparse.sr_ste()
  return {
      'plain Adam': (adam, False, ''),
      'hard, pattern locked': (
          sparsify(adam, jaxsparse.lock()), False, '<= 1.10'),
      'hard, gradual, no mask update': (
          sparsify(adam, _GRADUAL(when=schedules.every(10**5))), False, ''),
      'hard, gradual, mask update': (
          sparsify(adam, _GRADUAL()), False, ''),
      'STE 2:4': (sparsify(adam, nm, ste), False, '<= 2'),
      'STE 2:4, and the masked weights': (sparsify(adam, nm, ste), True, ''),
      'SR-STE 2:4': (sparsify(adam, nm, sr_ste), False, ''),
  }


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe(), '\n')
  grads = jax.tree.map(lambda w: .1 * w, _tree())
  functions, peaks, goals = {}, {}, {}
  for name, (tx, forward, goal) in _methods().items():
    params = _tree()
    if name == 'hard, pattern locked':
      params = jax.tree.map(
          lambda w: jnp.where(jnp.abs(w) > 1.6, w, 0.), params)
    step = jax.jit((_with_masked_weights if forward else after_backward)(tx),
                   donate_argnums=(0, 1))
    held = [params, jax.jit(tx.init)(params)]
    peaks[name] = timing.peak_megabytes(step.lower(*held, grads).compile())

    def run(step=step, held=held):
      held[:], rest = (out := step(*held, grads))[:2], out[2:]
      return held, rest
    functions[name], goals[name] = run, goal
  times = timing.interleaved(functions)
  plain = times['plain Adam'], peaks['plain Adam']
  timing.print_table(
      ['10.5M params', 'ms', 'x plain Adam', 'goal', 'more peak memory, MB'],
      [[name, ms, ms / plain[0], goals[name], peaks[name] - plain[1]]
       for name, ms in times.items()])


if __name__ == '__main__':
  app.run(main)
