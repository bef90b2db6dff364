"""The loop of Tunix in miniature: a trainer that owns the optimizer, and LoRA.

The trainer knows nothing of pruning. For full fine-tuning its optimizer keeps
zeros zero; the product of LoRA's adapters has the zeros of its base.

  $ python -m experiments.examples.tunix_style
  pruned at once: loss 0.290, sparsity 90.0%
  fine-tuned: loss 0.158, sparsity 90.0%
  LoRA, merged: loss 0.113, sparsity 90.0%
"""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxsparse


def loss_fn(model, x, y):
  return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


class Trainer:
  def __init__(self, model, tx):  # Of adapters if there are any, else of all.
    wrt = nnx.LoRAParam if nnx.state(model, nnx.LoRAParam) else nnx.Param
    self.model, self.optimizer = model, nnx.Optimizer(model, tx, wrt=wrt)
    self._step = nnx.jit(lambda model, optimizer, *batch: optimizer.update(
        model, nnx.grad(loss_fn, argnums=nnx.DiffState(0, wrt))(model, *batch)))

  def train(self, data, steps: int):
    for _ in range(steps):
      self._step(self.model, self.optimizer, *data)


class SparseLoRA(nnx.LoRA):
  @property
  def kernel(self):  # Merged: zeros of the base stay.
    w = self.base_module.kernel[...]
    return jnp.where(w != 0, w + self.lora_a[...] @ self.lora_b[...], 0)

  def __call__(self, x):
    return x @ self.kernel + self.base_module.bias[...]


def report(name, model, data):
  kernels = [jnp.asarray(model.layers[i].kernel) for i in (0, 2)]
  sparsity = jaxsparse.summary(kernels, [w != 0 for w in kernels]).sparsity
  print(f'{name}: loss {loss_fn(model, *data):.3f}, sparsity {sparsity:.1%}')


def main(steps: int = 100):
  x, y = load_digits(return_X_y=True)
  data, rngs = (x.astype(np.float32) / 16, y), nnx.Rngs(0)
  model = nnx.Sequential(
      nnx.Linear(64, 256, rngs=rngs), nnx.relu, nnx.Linear(256, 10, rngs=rngs))
  Trainer(model, optax.adam(3e-3)).train(data, steps)

  graphdef, params = nnx.split(model)
  pruned, _ = jaxsparse.one_shot(
      lambda params, x: nnx.merge(graphdef, params)(x), params, [data[0]],
      {'.*kernel': jaxsparse.unstructured(0.9)}, method='sparsegpt')
  report('pruned at once', nnx.merge(graphdef, pruned), data)
  tuned = nnx.merge(graphdef, pruned, copy=True)
  tx = jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.lock())  # Zeros stay.
  Trainer(tuned, tx).train(data, steps)
  report('fine-tuned', tuned, data)
  adapted = nnx.merge(graphdef, pruned, copy=True)
  for i, (inputs, outputs) in {0: (64, 256), 2: (256, 10)}.items():
    adapted.layers[i] = SparseLoRA(
        inputs, 4, outputs, base_module=adapted.layers[i], rngs=rngs)
  Trainer(adapted, optax.adam(3e-3)).train(data, steps)
  report('LoRA, merged', adapted, data)


if __name__ == '__main__':
  main()
