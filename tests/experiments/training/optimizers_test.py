"""Dense optimizers, against loops in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import default
from experiments.training import optimizers

pytestmark = pytest.mark.usefixtures('launched')


def test_sgd_has_momentum_an_l2_penalty_and_steps_of_learning_rate():
  config = default.get_config()
  config.update(optimizer='sgd', learning_rate=.1, momentum=.8, steps=8,
                weight_decay=.01, learning_rate_schedule='steps')
  tx = optimizers.optimizer(config)
  w = expected = np.asarray([1., -2.], np.float32)
  state, velocity = tx.init(w), 0.
  for rate in (.1, .1, .1, .1, .01, .01, .001, .001):
    gradient = np.sin(expected)
    velocity = .8 * velocity + gradient + .01 * expected
    expected = expected - rate * velocity
    updates, state = tx.update(jnp.sin(w), state, w)
    w = w + updates
  np.testing.assert_allclose(w, expected, rtol=1e-5)
