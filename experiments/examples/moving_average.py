"""An average of the params (EMA), evaluated under the masks of the training.

The average is of the params that the loop holds, as without pruning. It still
has traces of weights that were pruned since, so it gets the current masks
before it is used.

  $ python -m experiments.examples.moving_average
  trained: loss 0.098, sparsity 90.0%
  average: zeros 0.0%
  average under the masks: loss 0.094, zeros 90.0%
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsparse
from jaxsparse import schedules

DECAY = 0.98


def loss_fn(params, x, y):
  logits = jax.nn.relu(x @ params['hidden/kernel']) @ params['out/kernel']
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def zeros(params) -> float:
  leaves = jax.tree.leaves(params)
  return sum((w == 0).sum() for w in leaves) / sum(w.size for w in leaves)


def main(steps: int = 400):
  x, test_x, y, test_y = train_test_split(
      *load_digits(return_X_y=True), test_size=500, random_state=0)
  x, y, test_x = jnp.asarray(x) / 16, jnp.asarray(y), test_x / 16
  keys = jax.random.split(jax.random.key(0))
  params = {'hidden/kernel': jax.random.normal(keys[0], (64, 256)) / 8,
            'out/kernel': jax.random.normal(keys[1], (256, 10)) / 16}
  rule = jaxsparse.prune(
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = jaxsparse.sparsify(optax.adam(1e-2), rule)

  @jax.jit
  def train_step(params, average, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)
    rows = jax.random.choice(key, len(x), (64,))
    sparse = jaxsparse.sparse_params(params, opt_state)
    grads = jax.grad(loss_fn)(sparse, x[rows], y[rows])
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    average = optax.incremental_update(params, average, 1 - DECAY)
    return params, average, opt_state

  average, opt_state = params, tx.init(params)
  for step in range(steps):
    params, average, opt_state = train_step(params, average, opt_state, step)

  masks = jaxsparse.get_masks(opt_state)
  # Losses are those of the test images.
  loss = loss_fn(jaxsparse.sparse_params(params, opt_state), test_x, test_y)
  table = jaxsparse.summary(params, masks)
  print(f'trained: loss {loss:.3f}, sparsity {table.sparsity:.1%}')
  print(f'average: zeros {zeros(average):.1%}')
  average = jaxsparse.apply_masks(average, masks)  # Before it is used.
  loss = loss_fn(average, test_x, test_y)
  print(f'average under the masks: loss {loss:.3f}, zeros {zeros(average):.1%}')


if __name__ == '__main__':
  main()
