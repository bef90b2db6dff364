"""Flax NNX: a network loses 80% of its hidden units for good.

  $ python -m experiments.examples.slim_nnx
  pruned: test accuracy 97.8%
  hidden units: (256, 128) -> (40, 32)
  slimmed: test accuracy 97.8%
"""

from flax import nnx
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import units
from jaxsparse.nn import slim_model


class MLP(nnx.Module):

  def __init__(self, widths: tuple[int, int], rngs: nnx.Rngs):
    self.hidden1 = nnx.Linear(64, widths[0], rngs=rngs)
    self.hidden2 = nnx.Linear(widths[0], widths[1], rngs=rngs)
    self.out = nnx.Linear(widths[1], 10, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden2(nnx.relu(self.hidden1(x)))))


def train(model, tx, steps, x, y):
  @nnx.jit
  def train_step(model, optimizer):
    def loss_fn(model):
      return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
    optimizer.update(model, nnx.grad(loss_fn)(model))

  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  for _ in range(steps):
    train_step(model, optimizer)


def main(steps: int = 300):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  model = MLP(widths=(256, 128), rngs=nnx.Rngs(0))

  # Train, and prune whole units on the way, 8 at a time.
  graphdef, params = nnx.split(model)
  ties = jaxsparse.infer_ties(
      lambda params, x: nnx.merge(graphdef, params, copy=True)(x), params, x)
  tx = jaxsparse.sparsify(optax.adam(3e-3), units.prune_units(
      ties, importance=units.mean_magnitude(), sparsity=0.8, scope='global',
      multiple=8, schedule=jaxsparse.schedules.cubic(0, steps // 2)))
  train(model, tx, steps, x, y)
  logits = model(test_x)
  print(f'pruned: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')

  # Cut them out, arrays and widths.
  keep = jaxsparse.alive(nnx.state(model), ties)
  small = slim_model(model, ties, keep)
  widths = small.hidden1.out_features, small.hidden2.out_features
  print(f'hidden units: (256, 128) -> {widths}')
  np.testing.assert_allclose(small(test_x), logits, atol=1e-3)

  # Train on, faster, with any optimizer.
  train(small, optax.adam(1e-3), steps // 2, x, y)
  logits = small(test_x)
  print(f'slimmed: test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')


if __name__ == '__main__':
  main()
