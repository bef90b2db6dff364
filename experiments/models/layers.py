"""What the convolutional networks with batch norm are made of.

They take every width from the shapes of their arrays, so that channels can be
cut out of a network without making it anew.
"""

from collections.abc import Mapping
import functools
from typing import TypeVar

from flax import nnx

T = TypeVar('T')

# A tenth of the running averages is new in each step.
norm = functools.partial(nnx.BatchNorm, momentum=0.9)


def conv(width_in: int, width: int, size: int, *, strides: int = 1,
         rngs: nnx.Rngs) -> nnx.Conv:
  """Returns a square convolution without bias, for a norm to follow.

  Args:
    width_in: channels that it reads.
    width: channels that it makes.
    size: of the kernel, in pixels a side.
    strides: in pixels, in both directions.
    rngs: for the weights, initialised as in https://arxiv.org/abs/1502.01852.
  """
  return nnx.Conv(width_in, width, (size, size), strides=strides,
                  use_bias=False, kernel_init=nnx.initializers.he_normal(),
                  rngs=rngs)


def of_depth(architectures: Mapping[int, T], depth: int) -> T:
  """Returns the architecture of a depth.

  Raises:
    ValueError: if there is none; it lists the depths there are.
  """
  if depth not in architectures:
    raise ValueError('config.depth must be one of '
                     f'{sorted(architectures)} for this model, got {depth}')
  return architectures[depth]
