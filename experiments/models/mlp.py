"""A multilayer perceptron, narrow enough for sparsity to cost accuracy."""

from flax import nnx
import jax


class MLP(nnx.Module):
  """Two hidden layers; 3,466 weights at the default width of 32."""

  # The head stays dense: it is small, and ten classes do not tile by four.
  SPARSE = r'layers/\d+/kernel'

  def __init__(self, *, width: int = 32, rngs: nnx.Rngs):
    self.layers = nnx.List([
        nnx.Linear(64, width, rngs=rngs),
        nnx.Linear(width, width, rngs=rngs)])
    self.head = nnx.Linear(width, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.reshape(len(x), -1)
    for layer in self.layers:
      x = nnx.relu(layer(x))
    return self.head(x)
