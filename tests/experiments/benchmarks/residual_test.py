"""The network of the benchmark has the widths that its rows say."""

import jax.numpy as jnp
import pytest

from experiments.benchmarks import residual
import jaxsparse

pytestmark = pytest.mark.usefixtures('launched')


def test_every_stage_is_cut_to_its_width():
  apply, variables = residual.model((8, 8, 3), depth=8)
  images = jnp.ones((1, 8, 8, 3))
  ties = jaxsparse.infer_ties(apply, variables, images)
  small = residual.cut(variables, ties, (9, 19, 38))
  kernels = [block['conv2']['kernel'] for block in small['blocks'].values()]
  assert [w.shape for w in kernels] == [
      (3, 3, 9, 9), (3, 3, 19, 19), (3, 3, 38, 38)]
  assert apply(small, images).shape == (1, 10)
