"""`optax.MultiSteps`: gradients of four batches make one step, to 90%.

`MultiSteps` stands around `sparsify`. Rules then count optimizer steps, as
learning-rate schedules do, and scores that read gradients see the mean of the
four. Inside of `sparsify`, a rule would count batches and see each of them.

  $ python -m experiments.examples.gradient_accumulation
  accumulated: loss 0.086, sparsity 90.0%
  large batches: loss 0.086, sparsity 90.0%
  masks that differ: 0.0%
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxsparse
from jaxsparse import schedules

SPLIT = 4  # Batches of one step.


def loss_fn(params, x, y):
  logits = jax.nn.relu(x @ params['hidden/kernel']) @ params['out/kernel']
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(tx, params, batches):
  """Trains on batches; returns the params, their masks and the loss."""
  @jax.jit
  def train_step(params, opt_state, x, y):
    sparse = jaxsparse.sparse_params(params, opt_state)
    grads = jax.grad(loss_fn)(sparse, x, y)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for x, y in batches:
    params, opt_state = train_step(params, opt_state, x, y)
  return params, jaxsparse.get_masks(opt_state)


def main(steps: int = 100):
  x, y = (a[:1792] for a in load_digits(return_X_y=True))
  x = x.astype(np.float32) / 16
  keys = jax.random.split(jax.random.key(0))
  params = {'hidden/kernel': jax.random.normal(keys[0], (64, 256)) / 8,
            'out/kernel': jax.random.normal(keys[1], (256, 10)) / 16}
  small = list(zip(np.split(x, SPLIT), np.split(y, SPLIT)))

  rule = jaxsparse.prune(  # In optimizer steps.
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      score=jaxsparse.saliency(),  # Reads the mean gradient.
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = jaxsparse.sparsify(optax.sgd(0.3, momentum=0.9), rule)
  runs = {
      'accumulated': train(
          optax.MultiSteps(tx, SPLIT), params, small * steps),
      'large batches': train(tx, params, [(x, y)] * steps)}

  for name, (trained, masks) in runs.items():
    table = jaxsparse.summary(trained, masks)
    print(f'{name}: loss {loss_fn(trained, x, y):.3f}, '
          f'sparsity {table.sparsity:.1%}')
  (_, ours), (_, theirs) = runs.values()
  differ = [jnp.mean(ours[name] != theirs[name]) for name in ours]
  print(f'masks that differ: {max(differ):.1%}')
  np.testing.assert_allclose(differ, 0, atol=0.02)


if __name__ == '__main__':
  main()
