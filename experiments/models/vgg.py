"""VGG with batch norm and a single linear layer, as used on CIFAR."""

import itertools

from flax import nnx
import jax

from experiments.data import dataset
from experiments.models import layers

# Depth: how many convolutions each stage has.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3),
           19: (2, 2, 4, 4, 4)}


class VGG(nnx.Module):
  """3x3 convolutions that map images `[N, H, W, C]` to logits of classes.

  Between two of its five stages the image is halved, unless it is already one
  pixel, and the width is doubled, except before the last stage.
  https://arxiv.org/abs/1409.1556

  `depth` is 11, 13, 16 or 19. It counts the convolutions and the three linear
  layers that VGG has for larger images. `width` is the width of the first
  stage.
  """

  TASK = dataset.IMAGES
  # The first convolution reads the image and stays dense, as the head does.
  SPARSE = r'convs/[1-9]\d*/kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 64,
               depth: int = 19, rngs: nnx.Rngs):
    stages = layers.of_depth(_STAGES, depth)
    self.halved_before = tuple(itertools.accumulate(stages[:-1]))
    widths = [shape[-1], *(
        width * factor for factor, count in zip((1, 2, 4, 8, 8), stages)
        for _ in range(count))]
    self.convs = nnx.List([
        layers.conv(width_in, width, 3, rngs=rngs)
        for width_in, width in zip(widths, widths[1:])])
    self.norms = nnx.List([
        layers.norm(width, rngs=rngs) for width in widths[1:]])
    self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
      if i in self.halved_before:
        x = _halve(x)
      x = nnx.relu(norm(conv(x)))
    return self.head(x.mean((1, 2)))


def _halve(x):
  window = tuple(min(2, side) for side in x.shape[1:3])
  return nnx.max_pool(x, window, strides=window) if max(window) > 1 else x
