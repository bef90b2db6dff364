"""`jax.shard_map`: a data-parallel step that prunes to 90%, on all devices.

Inside `shard_map` each device has its share of the examples. `tx.init` and
`tx.update` stay outside, where a rule sees whole weights, and all devices get
the same masks.

  $ python -m experiments.examples.shard_map_step
  devices: 1
  loss 0.043, sparsity 90.0%
  without shard_map: the same loss
"""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxsparse
from jaxsparse import schedules


def loss_fn(params, x, y):
  logits = jax.nn.relu(x @ params['hidden/kernel']) @ params['out/kernel']
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def by_device(params, x, y):
  """The mean of the losses of all devices, each of its own examples."""
  return jax.lax.pmean(loss_fn(params, x, y), 'data')


def train(loss_fn, params, tx, steps, x, y):
  @jax.jit
  def train_step(params, opt_state):
    sparse = jaxsparse.sparse_params(params, opt_state)
    loss, grads = jax.value_and_grad(loss_fn)(sparse, x, y)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  # Masks and momentum lie beside their weights.
  shardings = jaxsparse.state_shardings(tx, params)
  opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
  for _ in range(steps):
    params, opt_state, loss = train_step(params, opt_state)
    loss.block_until_ready()  # CPUs as devices take one step at a time.
  return params, opt_state, loss


def main(steps: int = 100):
  mesh = jax.make_mesh((jax.device_count(),), ('data',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  whole, split = jax.P(), jax.P('data')
  place = lambda tree, spec: jax.device_put(tree, jax.NamedSharding(mesh, spec))
  x, y = (a[:1792] for a in load_digits(return_X_y=True))  # A multiple of 256.
  x = x.astype(np.float32) / 16
  keys = jax.random.split(jax.random.key(0))
  params = {'hidden/kernel': jax.random.normal(keys[0], (64, 256)) / 8,
            'out/kernel': jax.random.normal(keys[1], (256, 10)) / 16}

  rule = jaxsparse.prune(
      {'.*kernel': jaxsparse.unstructured()}, distribution=jaxsparse.erk(0.9),
      schedule=schedules.cubic(begin=steps // 4, end=steps * 3 // 4))
  tx = jaxsparse.sparsify(optax.sgd(0.5, momentum=0.9), rule)
  parallel = jax.shard_map(by_device, mesh=mesh, out_specs=whole,
                           in_specs=(whole, split, split))
  trained, opt_state, loss = train(
      parallel, place(params, whole), tx, steps, place(x, split),
      place(y, split))
  table = jaxsparse.summary(trained, jaxsparse.get_masks(opt_state))
  print(f'devices: {mesh.size}')
  print(f'loss {loss:.3f}, sparsity {table.sparsity:.1%}')

  *_, alone = train(loss_fn, params, tx, steps, x, y)
  np.testing.assert_allclose(loss, alone, rtol=0.05)
  print('without shard_map: the same loss')


if __name__ == '__main__':
  main()
