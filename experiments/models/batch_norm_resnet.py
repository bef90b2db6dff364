"""Residual networks with batch norm, https://arxiv.org/abs/1512.03385."""

from flax import nnx
import jax

from experiments.data import dataset
from experiments.models import layers

_SMALL_IMAGE = 64  # Pixels a side, at most.


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions beside a shortcut."""

  EXPANSION = 1

  def __init__(self, width_in: int, width: int, *, strides: int,
               rngs: nnx.Rngs):
    self.conv1 = layers.conv(width_in, width, 3, strides=strides, rngs=rngs)
    self.norm1 = layers.norm(width, rngs=rngs)
    self.conv2 = layers.conv(width, width, 3, rngs=rngs)
    self.norm2 = layers.norm(width, rngs=rngs)
    self.shortcut, self.shortcut_norm = _shortcut(
        width_in, width, strides=strides, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = nnx.relu(self.norm1(self.conv1(x)))
    y = self.norm2(self.conv2(y))
    return nnx.relu(self.shortcut_norm(self.shortcut(x)) + y)


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last is wider."""

  EXPANSION = 4

  def __init__(self, width_in: int, width: int, *, strides: int,
               rngs: nnx.Rngs):
    width_out = self.EXPANSION * width
    self.conv1 = layers.conv(width_in, width, 1, rngs=rngs)
    self.norm1 = layers.norm(width, rngs=rngs)
    self.conv2 = layers.conv(width, width, 3, strides=strides, rngs=rngs)
    self.norm2 = layers.norm(width, rngs=rngs)
    self.conv3 = layers.conv(width, width_out, 1, rngs=rngs)
    self.norm3 = layers.norm(width_out, rngs=rngs)
    self.shortcut, self.shortcut_norm = _shortcut(
        width_in, width_out, strides=strides, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = nnx.relu(self.norm1(self.conv1(x)))
    y = nnx.relu(self.norm2(self.conv2(y)))
    y = self.norm3(self.conv3(y))
    return nnx.relu(self.shortcut_norm(self.shortcut(x)) + y)


# Depth: the blocks, and how many each stage has.
_ARCHITECTURES = {
    8: (BasicBlock, (1, 1, 1)),
    14: (BasicBlock, (2, 2, 2)),
    20: (BasicBlock, (3, 3, 3)),
    32: (BasicBlock, (5, 5, 5)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    26: (Bottleneck, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class BatchNormResNet(nnx.Module):
  """A network that maps images `[N, H, W, C]` to logits of classes.

  Each stage after the first has half the pixels and twice the width. `width` is
  the width of the first stage: by default 16 with three stages, as for CIFAR,
  and 64 with four, as for ImageNet. Images with more than 64 pixels a side are
  made four times smaller before the first block.
  """

  TASK = dataset.IMAGES
  # The first convolution reads the image and stays dense, as the head does.
  SPARSE = r'blocks/\d+/(conv\d|shortcut)/kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *, depth: int,
               width: int | None = None, rngs: nnx.Rngs):
    block, stages = layers.of_depth(_ARCHITECTURES, depth)
    width = width or (16 if len(stages) == 3 else 64)
    self.pooled = max(shape[:2]) > _SMALL_IMAGE
    size, strides = (7, 2) if self.pooled else (3, 1)
    self.stem = layers.conv(
        shape[-1], width, size, strides=strides, rngs=rngs)
    self.stem_norm = layers.norm(width, rngs=rngs)
    self.blocks, width_in = nnx.List(), width
    for stage, count in enumerate(stages):
      for i in range(count):
        self.blocks.append(block(
            width_in, width << stage, strides=2 if stage and not i else 1,
            rngs=rngs))
        width_in = block.EXPANSION * (width << stage)
    self.head = nnx.Linear(width_in, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.stem_norm(self.stem(x)))
    if self.pooled:
      x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def _shortcut(width_in, width, *, strides, rngs):
  """A convolution and its norm, or, where shapes agree, nothing twice."""
  if width_in == width and strides == 1:
    return _identity, _identity
  return (layers.conv(width_in, width, 1, strides=strides, rngs=rngs),
          layers.norm(width, rngs=rngs))


def _identity(x):
  return x
