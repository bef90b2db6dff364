"""Equinox: a plain loop prunes a network to 90% while it learns digits.

  $ python -m experiments.examples.equinox_loop
  test accuracy 97.4%
  layer            shape   pattern       sparsity   kept      of
  ---------------  ------  ------------  --------  -----  ------
  layers/0/weight  256x64  unstructured     93.7%  1,034  16,384
  layers/1/weight  10x256  unstructured     66.4%    860   2,560
  layers/1/bias    10      dense                -     10      10
  ---------------  ------  ------------  --------  -----  ------
  sparse layers                             90.0%  1,894  18,944
  all                                       90.0%  1,904  18,954
  restored: the same masks, the same outputs
"""

import argparse
import tempfile

import equinox as eqx
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import schedules


def arrays(model: eqx.Module) -> eqx.Module:
  return eqx.filter(model, eqx.is_array)  # Functions are no parameters.


def main(steps: int):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  rule = jaxsparse.prune(
      {'.*weight': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = optax.adam(3e-3)
  tx = jaxsparse.sparsify(tx, rule)  # The one added line.

  @eqx.filter_jit
  def train_step(model, opt_state):
    def loss_fn(model):
      logits = jax.vmap(model)(x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    grads = eqx.filter_grad(loss_fn)(model)
    updates, opt_state = tx.update(grads, opt_state, arrays(model))
    return eqx.apply_updates(model, updates), opt_state

  model, fresh = (eqx.nn.MLP(64, 10, 256, depth=1, use_bias=False, key=key)
                  for key in jax.random.split(jax.random.key(0)))
  opt_state = tx.init(arrays(model))
  for _ in range(steps):
    model, opt_state = train_step(model, opt_state)

  logits, masks = jax.vmap(model)(test_x), jaxsparse.get_masks(opt_state)
  print(f'test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')
  print(jaxsparse.summary(arrays(model), masks))

  path = f'{tempfile.mkdtemp()}/state'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, (arrays(model), opt_state))  # Masks are inside.
    checkpointer.wait_until_finished()
    params, opt_state = checkpointer.restore(
        path, (arrays(fresh), tx.init(arrays(fresh))))
  model = eqx.combine(params, fresh)
  np.testing.assert_array_equal(jax.vmap(model)(test_x), logits)
  jax.tree.map(np.testing.assert_array_equal,
               jaxsparse.get_masks(opt_state), masks)
  print('restored: the same masks, the same outputs')


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=300)
  main(parser.parse_args().steps)
