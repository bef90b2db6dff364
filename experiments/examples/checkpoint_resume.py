"""Orbax: a training by RigL stops half way, and goes on to the same bits.

The optimizer state has masks, moments and the rule's step as arrays. So save
params and optimizer state, and make the method again with the same arguments.

  $ python -m experiments.examples.checkpoint_resume
  uninterrupted: loss 0.193, sparsity 90.0%
  stopped: loss 0.259, sparsity 90.0%
  resumed: loss 0.193, sparsity 90.0%
  the same params, the same masks, bit by bit
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits

import jaxsparse


def loss_fn(params, x, y):
  logits = jax.nn.relu(x @ params['hidden/kernel']) @ params['out/kernel']
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def optimizer(steps: int) -> optax.GradientTransformation:
  method = jaxsparse.methods.rigl({'.*kernel': jaxsparse.unstructured()}, 0.9,
                                  total_steps=steps, every=max(steps // 30, 2))
  return jaxsparse.sparsify(optax.adam(3e-3), method)


def new_state(tx):
  keys = jax.random.split(jax.random.key(0))
  params = {'hidden/kernel': jax.random.normal(keys[0], (64, 256)) / 8,
            'out/kernel': jax.random.normal(keys[1], (256, 10)) / 16}
  return params, tx.init(params)


def train(name, tx, state, steps: range):
  x, y = map(jnp.asarray, load_digits(return_X_y=True))

  @jax.jit
  def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)  # A batch for each step.
    rows = jax.random.choice(key, len(x), (128,))
    sparse = jaxsparse.sparse_params(params, opt_state)
    loss, grads = jax.value_and_grad(loss_fn)(sparse, x[rows] / 16, y[rows])
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  for step in steps:
    *state, loss = train_step(*state, step)
  table = jaxsparse.summary(state[0], jaxsparse.get_masks(state[1]))
  print(f'{name}: loss {loss:.3f}, sparsity {table.sparsity:.1%}')
  return tuple(state)


def main(steps: int = 300):
  tx = optimizer(steps)
  whole = train('uninterrupted', tx, new_state(tx), range(steps))

  half = train('stopped', tx, new_state(tx), range(steps // 2))
  path = f'{tempfile.mkdtemp()}/state'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, half)
    checkpointer.wait_until_finished()
    tx = optimizer(steps)  # As a new process makes it.
    state = checkpointer.restore(path, jax.eval_shape(lambda: new_state(tx)))
  resumed = train('resumed', tx, state, range(steps // 2, steps))
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  print('the same params, the same masks, bit by bit')


if __name__ == '__main__':
  main()
