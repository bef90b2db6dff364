"""ResNet-8 with group norm, which keeps no running averages."""

from flax import nnx
import jax

_GROUPS = 8


class Block(nnx.Module):
  """Two 3x3 convolutions beside a shortcut, each after norm and ReLU."""

  def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs):
    strides = width // width_in  # Twice the channels, half the pixels.
    self.norm1 = nnx.GroupNorm(width_in, num_groups=_GROUPS, rngs=rngs)
    self.conv1 = nnx.Conv(width_in, width, (3, 3), strides=strides,
                          use_bias=False, rngs=rngs)
    self.norm2 = nnx.GroupNorm(width, num_groups=_GROUPS, rngs=rngs)
    self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
    self.shortcut = nnx.Conv(width_in, width, (1, 1), strides=strides,
                             use_bias=False, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv1(nnx.relu(self.norm1(x)))
    y = self.conv2(nnx.relu(self.norm2(y)))
    return self.shortcut(x) + y


class ResNet(nnx.Module):
  """Three blocks on 8x8, 4x4 and 2x2 pixels; the first is `width` wide."""

  # The first convolution sees one channel, which no N:M pattern can tile.
  SPARSE = r'blocks/\d+/conv\d/kernel'

  def __init__(self, *, width: int = 16, rngs: nnx.Rngs):
    self.stem = nnx.Conv(1, width, (3, 3), use_bias=False, rngs=rngs)
    self.blocks = nnx.List([
        Block(width, width, rngs=rngs),
        Block(width, 2 * width, rngs=rngs),
        Block(2 * width, 4 * width, rngs=rngs)])
    self.norm = nnx.GroupNorm(4 * width, num_groups=_GROUPS, rngs=rngs)
    self.head = nnx.Linear(4 * width, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.stem(x)
    for block in self.blocks:
      x = block(x)
    return self.head(nnx.relu(self.norm(x)).mean((1, 2)))
