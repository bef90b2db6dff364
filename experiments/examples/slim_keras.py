"""Keras 3 on JAX: a network loses 80% of its hidden units for good.

  $ python -m experiments.examples.slim_keras
  pruned: test accuracy 97.4%
  hidden units: (256, 128) -> (40, 32)
  slimmed: test accuracy 97.8%
"""

import os

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import units

os.environ['KERAS_BACKEND'] = 'jax'  # Keras reads it when it is imported.
import keras  # noqa: E402


def mlp(widths: tuple[int, int]) -> keras.Model:
  return keras.Sequential([
      keras.Input((64,)),
      keras.layers.Dense(widths[0], 'relu', name='hidden1'),
      keras.layers.Dense(widths[1], 'relu', name='hidden2'),
      keras.layers.Dense(10, name='out')], name='mlp')


def main(steps: int = 300):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  keras.utils.set_random_seed(0)
  model = mlp(widths=(256, 128))
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  # A Keras model as a function of its arrays, by path: 'mlp/hidden1/kernel'.
  params = {v.path: v.value for v in model.variables}
  apply = lambda params, x: model.stateless_call(
      [params[v.path] for v in model.variables], [], x)[0]

  # Train, and prune whole units on the way, 8 at a time.
  ties = jaxsparse.infer_ties(apply, params, x)
  tx = jaxsparse.sparsify(optax.adam(3e-3), units.prune_units(
      ties, importance=units.mean_magnitude(), sparsity=0.8, scope='global',
      multiple=8, schedule=jaxsparse.schedules.cubic(0, steps // 2)))

  @jax.jit
  def train_step(params, opt_state):
    grads = jax.grad(lambda params: loss(y, apply(params, x)))(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)
  logits = apply(params, test_x)
  print(f'pruned: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')

  # Cut them out, and make the model anew at the widths that are left.
  keep = jaxsparse.alive(params, ties)
  shapes = units.sizes(ties, keep)
  widths = tuple(shapes[f'mlp/hidden{i}']['kernel'][-1] for i in (1, 2))
  print(f'hidden units: (256, 128) -> {widths}')
  small = mlp(widths)
  params = jaxsparse.slim(params, ties, keep)
  small.set_weights([params[v.path] for v in small.variables])
  np.testing.assert_allclose(small(test_x), logits, atol=1e-3)

  # Train on, faster, as any Keras model.
  small.compile('adam', loss)
  small.fit(x, y, batch_size=len(x), epochs=steps // 2, verbose=0)
  logits = small(test_x)
  print(f'slimmed: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')


if __name__ == '__main__':
  main()
