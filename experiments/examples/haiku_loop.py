"""Haiku: a plain loop prunes a network to 90% while it learns digits.

  $ python -m experiments.examples.haiku_loop
  test accuracy 96.6%
  layer             shape   pattern       sparsity   kept      of
  ----------------  ------  ------------  --------  -----  ------
  mlp/~/linear_0/w  64x256  unstructured     93.7%  1,034  16,384
  mlp/~/linear_1/w  256x10  unstructured     66.4%    860   2,560
  ----------------  ------  ------------  --------  -----  ------
  sparse layers                              90.0%  1,894  18,944
  all                                        90.0%  1,894  18,944
  restored: the same masks, the same outputs
"""

import argparse
import tempfile

import haiku as hk
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import schedules


@hk.without_apply_rng
@hk.transform
def network(x):
  return hk.nets.MLP([256, 10], with_bias=False)(x)


def main(steps: int):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  rule = jaxsparse.prune(
      {'.*/w': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = optax.adam(3e-3)
  tx = jaxsparse.sparsify(tx, rule)  # The one added line.

  @jax.jit
  def train_step(params, opt_state):
    def loss_fn(params):
      logits = network.apply(params, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    grads = jax.grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params = network.init(jax.random.key(0), x)
  opt_state = tx.init(params)
  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)

  logits, masks = network.apply(params, test_x), jaxsparse.get_masks(opt_state)
  print(f'test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')
  print(jaxsparse.summary(params, masks))

  path = f'{tempfile.mkdtemp()}/state'
  fresh = network.init(jax.random.key(1), x)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, (params, opt_state))  # Masks are in the latter.
    checkpointer.wait_until_finished()
    params, opt_state = checkpointer.restore(path, (fresh, tx.init(fresh)))
  np.testing.assert_array_equal(network.apply(params, test_x), logits)
  jax.tree.map(np.testing.assert_array_equal,
               jaxsparse.get_masks(opt_state), masks)
  print('restored: the same masks, the same outputs')


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=300)
  main(parser.parse_args().steps)
