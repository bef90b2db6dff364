"""Flax Linen: a `TrainState` prunes a network to 90% while it learns digits.

  $ python -m experiments.examples.linen_train_state
  test accuracy 97.0%
  layer            shape   pattern       sparsity   kept      of
  ---------------  ------  ------------  --------  -----  ------
  layers_0/kernel  64x256  unstructured     93.7%  1,034  16,384
  layers_2/bias    10      dense                -     10      10
  layers_2/kernel  256x10  unstructured     66.4%    860   2,560
  ---------------  ------  ------------  --------  -----  ------
  sparse layers                             90.0%  1,894  18,944
  all                                       90.0%  1,904  18,954
  restored: the same masks, the same outputs
"""

import argparse
import tempfile

from flax import linen as nn
from flax.training.train_state import TrainState
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import schedules


def new_state(seed: int, steps: int) -> TrainState:
  """Returns a new network, and an optimizer that prunes it on the way."""
  model = nn.Sequential([nn.Dense(256, use_bias=False), nn.relu, nn.Dense(10)])
  params = model.init(jax.random.key(seed), np.zeros((1, 64)))['params']
  rule = jaxsparse.prune(
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = optax.adam(3e-3)
  tx = jaxsparse.sparsify(tx, rule)  # The one added line.
  return TrainState.create(apply_fn=model.apply, params=params, tx=tx)


@jax.jit
def train_step(state: TrainState, x: jax.Array, y: jax.Array) -> TrainState:
  def loss_fn(params):
    logits = state.apply_fn({'params': params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
  return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))


def main(steps: int):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  state = new_state(seed=0, steps=steps)
  for _ in range(steps):
    state = train_step(state, x, y)

  logits = state.apply_fn({'params': state.params}, test_x)
  masks = jaxsparse.get_masks(state.opt_state)
  print(f'test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')
  print(jaxsparse.summary(state.params, masks))

  path = f'{tempfile.mkdtemp()}/state'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, state)  # Masks are in its optimizer state.
    checkpointer.wait_until_finished()
    again = checkpointer.restore(path, new_state(seed=1, steps=steps))
  np.testing.assert_array_equal(
      again.apply_fn({'params': again.params}, test_x), logits)
  jax.tree.map(np.testing.assert_array_equal,
               jaxsparse.get_masks(again.opt_state), masks)
  print('restored: the same masks, the same outputs')


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=300)
  main(parser.parse_args().steps)
