"""The residual network whose channels benchmarks cut out."""

from typing import Any, Callable

from flax import nnx
import jax
import numpy as np

from experiments import models
import jaxsparse

WIDTHS = (16, 32, 64)  # Of its three stages.


def model(shape: tuple[int, ...], depth: int = 20
          ) -> tuple[Callable[[Any, jax.Array], jax.Array], Any]:
  """Returns the function, in evaluation mode, and its new weights.

  Args:
    shape: of an image `[H, W, C]`.
    depth: of the network.
  """
  network = models.BatchNormResNet(shape, 10, depth=depth, rngs=nnx.Rngs(0))
  network.eval()
  graphdef, variables = nnx.split(network)

  def apply(variables, images):
    return nnx.merge(graphdef, variables, copy=True)(images)
  return apply, variables


def cut(variables: Any, ties: jaxsparse.units.Ties, widths: tuple[int, ...]
        ) -> Any:
  """Returns the variables without all but the first units of each tie.

  Args:
    variables: of the full network.
    ties: of its channels.
    widths: how many channels each stage keeps.
  """
  kept = dict(zip(WIDTHS, widths))
  keep = {tie.name: np.arange(tie.size) < kept[tie.size]
          for tie in jaxsparse.units.neurons(ties)}
  return jaxsparse.slim(variables, ties, keep)
