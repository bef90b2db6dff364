"""The layers of the convolutional networks with batch norm.

They read every width from the shapes of their arrays. Channels can therefore be
cut out of a network without building it again.
"""

from collections.abc import Mapping
import functools
from typing import TypeVar

from flax import nnx

T = TypeVar('T')

# Each step replaces a tenth of the running averages.
norm = functools.partial(nnx.BatchNorm, momentum=0.9)


def conv(width_in: int, width: int, size: int, *, strides: int = 1,
         rngs: nnx.Rngs) -> nnx.Conv:
  """Returns a square convolution without bias, to be followed by a norm.

  Args:
    width_in: the number of input channels.
    width: the number of output channels.
    size: the size of the kernel, in pixels a side.
    strides: the strides in both directions, in pixels.
    rngs: for the weights, initialised as in https://arxiv.org/abs/1502.01852.
  """
  return nnx.Conv(width_in, width, (size, size), strides=strides,
                  use_bias=False, kernel_init=nnx.initializers.he_normal(),
                  rngs=rngs)


def of_depth(architectures: Mapping[int, T], depth: int) -> T:
  """Returns the architecture with a given depth.

  Raises:
    ValueError: if there is none. The message lists the possible depths.
  """
  if depth not in architectures:
    raise ValueError('config.depth must be one of '
                     f'{sorted(architectures)} for this model, got {depth}')
  return architectures[depth]
