"""A multilayer perceptron, narrow enough for sparsity to cost accuracy."""

import math

from flax import nnx
import jax

from experiments.data import dataset


class MLP(nnx.Module):
  """Hidden layers on flat images; on the digits 32 wide, with 3,466 weights."""

  TASK = dataset.IMAGES
  # The head stays dense: it is small, and ten classes do not tile by four.
  SPARSE = r'layers/\d+/kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 32,
               depth: int = 2, rngs: nnx.Rngs):
    widths = [math.prod(shape), *depth * [width]]
    self.layers = nnx.List([
        nnx.Linear(width_in, width, rngs=rngs)
        for width_in, width in zip(widths, widths[1:])])
    self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.reshape(len(x), -1)
    for layer in self.layers:
      x = nnx.relu(layer(x))
    return self.head(x)
