"""What tests of removed units share: a tie by hand, and pruned params."""

import jax
import numpy as np

from jaxsparse._utils import trees
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie


def removable(ties):
  return [tie for tie in ties if not tie.fixed and not tie.kept]


def some(ties, seed=0):
  """About half of the units of everything that may be removed."""
  rng = np.random.default_rng(seed)
  return {tie.name: rng.permuted(np.broadcast_to(
      np.arange(tie.size) <= tie.size // 2, tie.shape), axis=-1)
          for tie in removable(ties)}


def pruned(params, ties, keep, *, others=None):
  """Zeros where units that go are read; and other numbers where they are not.

  Where no kernel reads them, or something else does, too, all is zero.
  """
  arrays = {path: np.array(w) for path, w in trees.align(params)}
  chosen = [(tie, keep[tie.name]) for tie in ties if tie.name in keep]
  if others is not None:
    rng = np.random.default_rng(others)
    for tie, k in chosen:
      for m in tie.members:
        there = ties_lib.view(tie, m, arrays[m.path])
        there[~k] = rng.uniform(.5, 1.5, there[~k].shape)
  for tie, k in chosen:
    readers = [m for m in tie.members if m.role == 'reads']
    for m in tie.members if tie.read or not readers else readers:
      ties_lib.view(tie, m, arrays[m.path])[~k] = 0
  return trees.map_with_path(
      lambda path, w: jax.device_put(arrays[path]), params)


HIDDEN = Tie(4, (Member('fc1', 1, role='makes'), Member('bias', 0),
                 Member('fc2', 0, role='reads')), name='hidden')


def arrays():
  return {'fc1': np.ones((2, 4), np.float32), 'bias': np.ones(4, np.float32),
          'fc2': np.ones((4, 3), np.float32)}
