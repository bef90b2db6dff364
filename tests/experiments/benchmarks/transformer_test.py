"""The transformer of the benchmark is one function in two forms."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import transformer


def test_layers_of_a_scan_are_those_of_a_loop():
  loop, layers, batches = transformer.model(8, 2, scanned=False)
  scan, stacked, _ = transformer.model(8, 2, scanned=True)
  x = batches[0][:2, :5]
  for i, layer in enumerate(layers):
    for name, w in layer.items():
      np.testing.assert_array_equal(stacked[name][i], w)
  with jax.numpy_rank_promotion('allow'):
    np.testing.assert_allclose(
        loop(layers, x), scan(stacked, x), rtol=1e-5, atol=1e-5)
    # A token sees no later one.
    changed = loop(layers, jnp.asarray(x).at[:, 3:].set(0.))
  np.testing.assert_allclose(
      changed[:, :3], scan(stacked, x)[:, :3], rtol=1e-5, atol=1e-5)
