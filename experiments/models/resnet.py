"""ResNet-8 with group norm, which keeps no running averages."""

from flax import nnx
import jax

from experiments.data import dataset

_GROUPS = 8


class Block(nnx.Module):
  """Two 3x3 convolutions and a shortcut, each convolution after norm and ReLU.
  """

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
  """Blocks; each after the first has half the pixels and twice the width.

  The first block is `width` wide. `depth` is the number of blocks; ResNet-8 has
  3.
  """

  TASK = dataset.IMAGES
  # The first convolution reads few channels, which no N:M pattern can tile.
  SPARSE = r'blocks/\d+/conv\d/kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 16,
               depth: int = 3, rngs: nnx.Rngs):
    if width % _GROUPS:
      raise ValueError(f'config.width must be a multiple of {_GROUPS}, the '
                       f'number of groups of a norm, got {width}')
    self.stem = nnx.Conv(shape[-1], width, (3, 3), use_bias=False, rngs=rngs)
    widths = [width, *(width * 2**i for i in range(depth))]
    self.blocks = nnx.List([
        Block(width_in, width, rngs=rngs)
        for width_in, width in zip(widths, widths[1:])])
    self.norm = nnx.GroupNorm(widths[-1], num_groups=_GROUPS, rngs=rngs)
    self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.stem(x)
    for block in self.blocks:
      x = block(x)
    return self.head(nnx.relu(self.norm(x)).mean((1, 2)))
