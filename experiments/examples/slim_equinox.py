"""Equinox: a network loses 80% of its hidden units for good.

  $ python -m experiments.examples.slim_equinox
  pruned: test accuracy 97.4%
  hidden units: (256, 256) -> (48, 48)
  slimmed: test accuracy 97.8%
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import units


def mlp(width: int) -> tuple[eqx.nn.MLP, eqx.nn.MLP]:
  """Returns the arrays of a new model, and the rest of it."""
  model = eqx.nn.MLP(64, 10, width, depth=2, key=jax.random.key(0))
  return eqx.partition(model, eqx.is_array)


def apply(params, static, x):
  return jax.vmap(eqx.combine(params, static))(x)


def train(static, params, tx, steps, x, y):
  @eqx.filter_jit
  def train_step(params, opt_state):
    def loss_fn(params):
      logits = apply(params, static, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
    return eqx.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)
  return params


def main(steps: int = 300):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  params, static = mlp(width=256)

  # Train, and prune whole units on the way, as many in each layer.
  ties = jaxsparse.infer_ties(lambda p, x: apply(p, static, x), params, x)
  tx = jaxsparse.sparsify(optax.adam(3e-3), units.prune_units(
      ties, importance=units.mean_magnitude(), sparsity=0.8, multiple=8,
      schedule=jaxsparse.schedules.cubic(0, steps // 2)))
  params = train(static, params, tx, steps, x, y)
  logits = apply(params, static, test_x)
  print(f'pruned: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')

  # Cut them out, and make the model anew at the width that is left.
  keep = jaxsparse.alive(params, ties)
  width, = units.sizes(ties, keep)['layers/0']['bias']
  print(f'hidden units: (256, 256) -> {width, width}')
  small, static = mlp(width)
  params = jax.tree.leaves(jaxsparse.slim(params, ties, keep))
  params = jax.tree.unflatten(jax.tree.structure(small), params)
  np.testing.assert_allclose(apply(params, static, test_x), logits, atol=1e-3)

  # Train on, faster, with any optimizer.
  params = train(static, params, optax.adam(1e-3), steps // 2, x, y)
  logits = apply(params, static, test_x)
  print(f'slimmed: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')


if __name__ == '__main__':
  main()
