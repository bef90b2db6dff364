"""A perceptron of six hidden units, and the tie that they are."""

import jax
import numpy as np

from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie

X = np.ones(4, np.float32)
HIDDEN = Tie(6, (
    Member('fc1', 1, role='makes'), Member('bias', 0, role='beside'),
    Member('fc2', 0, role='reads')))


def params():
  rng = np.random.default_rng(0)
  shapes = {'fc1': (4, 6), 'bias': (6,), 'fc2': (6, 3)}
  return {name: rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()}


def mlp(params, x):
  return jax.nn.relu(x @ params['fc1'] + params['bias']) @ params['fc2']
