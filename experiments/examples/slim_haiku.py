"""Haiku: a network loses 80% of its hidden units for good.

  $ python -m experiments.examples.slim_haiku
  pruned: test accuracy 97.8%
  hidden units: (256, 128) -> (40, 32)
  slimmed: test accuracy 97.2%
"""

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import units


def mlp(widths: tuple[int, int]) -> hk.Transformed:
  return hk.without_apply_rng(hk.transform(
      lambda x: hk.nets.MLP([*widths, 10])(x)))


def train(model, params, tx, steps, x, y):
  @jax.jit
  def train_step(params, opt_state):
    def loss_fn(params):
      logits = model.apply(params, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)
  return params


def main(steps: int = 300):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  model = mlp(widths=(256, 128))
  params = model.init(jax.random.key(0), x)

  # Train, and prune whole units on the way, 8 at a time.
  ties = jaxsparse.infer_ties(model.apply, params, x)
  tx = jaxsparse.sparsify(optax.adam(3e-3), units.prune_units(
      ties, importance=units.mean_magnitude(), sparsity=0.8, scope='global',
      multiple=8, schedule=jaxsparse.schedules.cubic(0, steps // 2)))
  params = train(model, params, tx, steps, x, y)
  logits = model.apply(params, test_x)
  print(f'pruned: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')

  # Cut them out, and make the model anew at the widths that are left.
  keep = jaxsparse.alive(params, ties)
  shapes = units.sizes(ties, keep)
  widths = tuple(shapes[f'mlp/~/linear_{i}']['w'][-1] for i in (0, 1))
  print(f'hidden units: (256, 128) -> {widths}')
  small = mlp(widths)
  params = jaxsparse.slim(params, ties, keep)
  np.testing.assert_allclose(small.apply(params, test_x), logits, atol=1e-3)

  # Train on, faster, with any optimizer.
  params = train(small, params, optax.adam(1e-3), steps // 2, x, y)
  logits = small.apply(params, test_x)
  print(f'slimmed: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')


if __name__ == '__main__':
  main()
