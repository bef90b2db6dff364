"""The network of the benchmark has the widths that its rows say."""

from flax import nnx
import jax.numpy as jnp
import pytest

from experiments import models
from experiments.benchmarks import widths
import jaxsparse

pytestmark = pytest.mark.usefixtures('launched')


def test_every_stage_is_cut_to_its_width():
  model = models.BatchNormResNet((8, 8, 3), 10, depth=8, rngs=nnx.Rngs(0))
  model.eval()
  graphdef, variables = nnx.split(model)
  images = jnp.ones((1, 8, 8, 3))

  def apply(variables, images):
    return nnx.merge(graphdef, variables, copy=True)(images)
  ties = jaxsparse.infer_ties(apply, variables, images)
  small = widths.cut(variables, ties, (9, 19, 38))
  kernels = [block['conv2']['kernel'] for block in small['blocks'].values()]
  assert [w.shape for w in kernels] == [
      (3, 3, 9, 9), (3, 3, 19, 19), (3, 3, 38, 38)]
  assert apply(small, images).shape == (1, 10)
