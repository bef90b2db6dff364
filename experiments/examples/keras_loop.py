"""Keras 3 on JAX: a plain loop prunes a network to 90% while it learns digits.

  $ python -m experiments.examples.keras_loop
  test accuracy 96.8%
  layer              shape   pattern       sparsity   kept      of
  -----------------  ------  ------------  --------  -----  ------
  mlp/hidden/kernel  64x256  unstructured     93.7%  1,034  16,384
  mlp/out/bias       10      dense                -     10      10
  mlp/out/kernel     256x10  unstructured     66.4%    860   2,560
  -----------------  ------  ------------  --------  -----  ------
  sparse layers                               90.0%  1,894  18,944
  all                                         90.0%  1,904  18,954
  restored: the same masks, the same outputs
"""

import os
import tempfile

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse

os.environ['KERAS_BACKEND'] = 'jax'  # Keras reads it when it is imported.
import keras  # noqa: E402


def new_model(seed: int):
  keras.utils.set_random_seed(seed)
  model = keras.Sequential([
      keras.Input((64,)),
      keras.layers.Dense(256, 'relu', use_bias=False, name='hidden'),
      keras.layers.Dense(10, name='out')], name='mlp')
  return model, {v.path: v.value for v in model.trainable_variables}


def main(steps: int = 300):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  model, params = new_model(seed=0)
  in_order = lambda params: [params[v.path] for v in model.trainable_variables]
  apply = lambda params, x: model.stateless_call(in_order(params), [], x)[0]
  rule = jaxsparse.prune(
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=jaxsparse.schedules.cubic(steps // 4, steps * 3 // 4))
  tx = jaxsparse.sparsify(optax.adam(3e-3), rule)  # The one line that prunes.
  opt_state = tx.init(params)

  @jax.jit
  def train_step(params, opt_state):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    grads = jax.grad(lambda params: loss(y, apply(params, x)))(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)
  logits, masks = apply(params, test_x), jaxsparse.get_masks(opt_state)
  print(f'test accuracy {(logits.argmax(-1) == test_y).mean():.1%}')
  print(jaxsparse.summary(params, masks))
  model, fresh = new_model(seed=1)
  path = f'{tempfile.mkdtemp()}/state'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, (params, opt_state))  # Masks are in the latter.
    checkpointer.wait_until_finished()
    params, opt_state = checkpointer.restore(path, (fresh, tx.init(fresh)))
  model.set_weights(in_order(params))
  np.testing.assert_array_equal(model(test_x), logits)
  jax.tree.map(np.testing.assert_array_equal,
               jaxsparse.get_masks(opt_state), masks)
  print('restored: the same masks, the same outputs')


if __name__ == '__main__':
  main()
