"""A small vision transformer over square patches."""

import math

from flax import nnx
import jax

from experiments.data import dataset
from experiments.models import transformer


class ViT(nnx.Module):
  """Transformer blocks over the patches of images `[N, H, W, C]`.

  A patch has `patch` pixels a side. By default this is the largest power of two
  from 2 to 16 that gives at least seven patches on the shorter side of the
  image: 2 for images of 8 pixels, 4 for 28 and 32, 16 for 224.
  """

  TASK = dataset.IMAGES
  SPARSE = transformer.SPARSE

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 32,
               depth: int = 2, patch: int | None = None, rngs: nnx.Rngs):
    *size, channels = shape
    patch = patch or min(1 << int(math.log2(max(2, min(size) // 7))), 16)
    tokens = math.prod(-(-side // patch) for side in size)
    self.patches = nnx.Conv(channels, width, (patch, patch), strides=patch,
                            rngs=rngs)
    self.positions = transformer.positions(tokens, width, rngs=rngs)
    self.blocks = nnx.List([
        transformer.Block(width, rngs=rngs) for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.patches(x)
    x = x.reshape(len(x), -1, x.shape[-1]) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x).mean(1))
