"""The loop of MaxText in miniature: 2:4 by SR-STE on a mesh, layers in a scan.

The scan stacks layers along axis 1 of their weights, as MaxText does, so inputs
are no longer along axis -2: `kernel_patterns` finds them.

  $ python -m experiments.examples.maxtext_style
  layers/up: nm(2, 4, axis=-3)
  loss 0.0003, sparsity 50.0%
"""

from flax import linen as nn
from flax.training.train_state import TrainState
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxsparse

CONFIG = {'embed': 64, 'mlp': 128, 'layers': 4, 'learning_rate': 2e-3}


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    h = nn.relu(nn.Dense(CONFIG['mlp'], name='up')(nn.RMSNorm()(x)))
    return x + nn.Dense(CONFIG['embed'], name='down')(h), None


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    layers = nn.scan(Block, variable_axes={'params': 1}, split_rngs={
        'params': True}, length=CONFIG['layers'])
    x = nn.Dense(CONFIG['embed'])(x)
    return nn.Dense(10)(layers(name='layers')(x, None)[0])


def train_step(state, x, y):
  def loss_fn(params):
    logits = state.apply_fn(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
  sparse = jaxsparse.sparse_params(state.params, state.opt_state)  # Added.
  loss, grads = jax.value_and_grad(loss_fn)(sparse)
  return state.apply_gradients(grads=grads), loss


def main(steps: int = 200):
  x, y = (a[:1792] for a in load_digits(return_X_y=True))
  x, model, key = x.astype(np.float32) / 16, Network(), jax.random.key(0)
  shape = (jax.device_count() // 2, 2) if jax.device_count() > 1 else (1, 1)
  mesh = jax.make_mesh(shape, ('data', 'tensor'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  at = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))
  place = lambda w: at(None, None, 'tensor') if w.ndim == 3 else at()
  params = jax.jit(model.init, out_shardings=jax.tree.map(
      place, jax.eval_shape(model.init, key, x)))(key, x)
  rules = jaxsparse.kernel_patterns(model.apply, params, x, dense='.*Dense.*',
                                    pattern=jaxsparse.nm(2, 4))
  print('layers/up:', rules['params/layers/up/kernel'])
  tx = jaxsparse.sparsify(optax.adam(CONFIG['learning_rate']),
                          jaxsparse.methods.sr_ste(rules, steps))
  state = TrainState(
      step=jax.device_put(0, at()), apply_fn=model.apply, params=params, tx=tx,
      opt_state=jax.jit(tx.init, out_shardings=jaxsparse.state_shardings(
          tx, params))(params))  # Masks and moments are beside their weights.
  shardings = jax.tree.map(lambda array: array.sharding, state)
  step = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, at()),
                 in_shardings=(shardings, at('data'), at('data')))
  for _ in range(steps):
    state, loss = step(state, x, y)
    loss.block_until_ready()  # CPUs as devices take one step at a time.
  masks = jaxsparse.get_masks(state.opt_state)
  sparsity = jaxsparse.summary(state.params, masks).sparsity
  print(f'loss {loss:.4f}, sparsity {sparsity:.1%}')


if __name__ == '__main__':
  main()
