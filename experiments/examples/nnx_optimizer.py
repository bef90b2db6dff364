"""Flax NNX: an `nnx.Optimizer` prunes a network to 90% while it learns digits.

  $ python -m experiments.examples.nnx_optimizer
  test accuracy 97.0%
  layer            shape   pattern       sparsity   kept      of
  ---------------  ------  ------------  --------  -----  ------
  layers/0/kernel  64x256  unstructured     93.7%  1,034  16,384
  layers/2/bias    10      dense                -     10      10
  layers/2/kernel  256x10  unstructured     66.4%    860   2,560
  ---------------  ------  ------------  --------  -----  ------
  sparse layers                             90.0%  1,894  18,944
  all                                       90.0%  1,904  18,954
  restored: the same masks, the same outputs
"""

import argparse
import tempfile

from flax import nnx
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import schedules


def new_model(seed: int, steps: int) -> tuple[nnx.Module, nnx.Optimizer]:
  """Returns a new network, and an optimizer that prunes it on the way."""
  rngs = nnx.Rngs(seed)
  model = nnx.Sequential(
      nnx.Linear(64, 256, use_bias=False, rngs=rngs), nnx.relu,
      nnx.Linear(256, 10, rngs=rngs))
  rule = jaxsparse.prune(
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = optax.adam(3e-3)
  tx = jaxsparse.sparsify(tx, rule)  # The one added line.
  return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model: nnx.Module, optimizer: nnx.Optimizer, x, y):
  def loss_fn(model):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
  optimizer.update(model, nnx.grad(loss_fn)(model))


def main(steps: int):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  model, optimizer = new_model(seed=0, steps=steps)
  for _ in range(steps):
    train_step(model, optimizer, x, y)

  logits, masks = model(test_x), jaxsparse.get_masks(optimizer.opt_state)
  print(f'test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')
  print(jaxsparse.summary(nnx.state(model, nnx.Param), masks))

  path = f'{tempfile.mkdtemp()}/state'
  again = new_model(seed=1, steps=steps)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, nnx.state((model, optimizer)))  # Masks included.
    checkpointer.wait_until_finished()
    nnx.update(again, checkpointer.restore(path, nnx.state(again)))
  model, optimizer = again
  np.testing.assert_array_equal(model(test_x), logits)
  jax.tree.map(np.testing.assert_array_equal,
               jaxsparse.get_masks(optimizer.opt_state), masks)
  print('restored: the same masks, the same outputs')


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=300)
  main(parser.parse_args().steps)
