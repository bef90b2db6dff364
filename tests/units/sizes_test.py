"""The new shapes are those that `slim` leaves, by module."""

import collections

from flax import linen as nn
import jax
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse import slim
from jaxsparse._utils import trees
from jaxsparse.units import alive
from jaxsparse.units import Member
from jaxsparse.units import sizes
from jaxsparse.units import Tie
from jaxsparse.units import Ties
from tests._lib.near import same
from tests._lib.removals import arrays
from tests._lib.removals import HIDDEN
from tests._lib.removals import pruned
from tests._lib.removals import some


class Net(nn.Module):
  """Widths are arguments, as they are in most models."""
  widths: tuple[int, int] = (8, 12)

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(self.widths[0], (3, 3), name='conv')(x))
    x = nn.BatchNorm(use_running_average=True, name='norm')(x)
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(self.widths[1], name='hidden')(x))
    return nn.Dense(3, name='out')(x)


def _net():
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
  variables = Net().init(jax.random.key(0), x)
  ties = infer_ties(Net().apply, variables, x)
  keep = some(ties)
  return x, pruned(variables, ties, keep), ties, keep


def test_sizes_are_the_shapes_after_slim():
  _, variables, ties, keep = _net()
  expected = collections.defaultdict(dict)
  for path, w in trees.align(slim(variables, ties, keep)):
    *module, name = path.split('/')
    expected['/'.join(module)][name] = w.shape
  found = sizes(ties, keep)
  assert found == expected
  # A channel has 16 indices after the flatten; the last layer keeps its width.
  assert found['params/hidden'] == {'kernel': (5 * 16, 7), 'bias': (7,)}
  assert found['params/out'] == {'kernel': (7, 3), 'bias': (3,)}
  assert found['batch_stats/norm'] == {'mean': (5,), 'var': (5,)}


def test_a_model_made_with_them_takes_the_slimmed_parameters():
  x, variables, ties, keep = _net()
  found = sizes(ties, keep)
  small = Net((found['params/conv']['kernel'][-1],
               found['params/hidden']['kernel'][-1]))
  slimmed = slim(variables, ties, keep)
  jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape),
               small.init(jax.random.key(0), x), slimmed)
  same(small.apply(slimmed, x), Net().apply(variables, x))


def test_nothing_goes_where_nothing_is_named():
  _, variables, ties, _ = _net()
  assert sizes(ties, {}) == sizes(ties, alive(
      jax.tree.map(np.ones_like, variables), ties))
  assert sizes(ties, {})['params/conv']['kernel'] == (3, 3, 3, 8)


def test_groups_that_keep_other_units_and_parameters_at_the_root():
  tie = Tie(3, (Member('w', 1, along=((0, 1),)),), (2,), name='t')
  ties = Ties((tie,), {'w': (2, 3), 'b': (4,)})
  keep = {'t': np.array([[True, False, True], [False, True, True]])}
  assert sizes(ties, keep) == {'': {'w': (2, 2), 'b': (4,)}}


def test_errors_say_what_to_write():
  keep = {'hidden': np.ones(4, bool)}
  with pytest.raises(ValueError, match='none for bias. Infer .* or write'):
    sizes([HIDDEN], keep)
  ties = Ties((HIDDEN,), {k: w.shape for k, w in arrays().items()})
  with pytest.raises(ValueError, match='at least one of its'):
    sizes(ties, {'hidden': np.zeros(4, bool)})
  with pytest.raises(ValueError, match='Expected the name of a tie'):
    sizes(ties, {'other': np.ones(4, bool)})
