"""What the zoo says is true: shown by permuting, not by reading the model."""

import jax
import numpy as np
import pytest

from jaxsparse._utils import trees
from jaxsparse.graph._flops import flops
from tests._lib import zoo

SAME, OTHER = 1e-5, 1e-3  # Of the largest output, in f32.

# What is multiplied with data, but in two ways, so that it is no kernel.
TWICE = {'autoencoder': ['w'], 'decoder_tied_head': ['embedding'],
         'decoder_interleaved_learned': ['embedding']}


@pytest.fixture(
    name='case', params=zoo.CASES, ids=lambda build: build.__name__,
    scope='module')
def _case(request):
  return request.param()


@pytest.fixture(name='distance', scope='module')
def _distance(case):
  """How far permuting units takes the outputs, of the largest of them."""
  fn = jax.jit(case.fn)
  expected = np.asarray(fn(case.params, *case.inputs))
  assert expected.dtype == np.float32 and np.isfinite(expected).all()

  def distance(index):
    got = fn(permuted(case.params, index), *case.inputs)
    return np.abs(got - expected).max() / np.abs(expected).max()
  return distance


def permuted(params, index):
  """Moves every unit; `index` has its positions on each axis that it is on."""
  count, = {len(positions) for positions in index.values()}
  rng = np.random.default_rng(count)
  order = rng.permutation(count)
  units = np.empty(count, int)
  units[order] = np.roll(order, 1)  # One cycle, so that no unit stays.

  def take(path, w):
    w = np.asarray(w)
    for (name, axis), positions in index.items():
      if name == path:
        source = np.arange(w.shape[axis])
        source[positions] = positions[units]
        w = np.take(w, source, axis)
    return w
  return trees.map_with_path(take, params)


def whole(case, axis):
  path, number = axis
  w = dict(zip(trees.paths(case.params), jax.tree.leaves(case.params)))[path]
  return {axis: np.arange(w.shape[number])[:, None]}


def test_permuting_free_units_changes_nothing(case, distance):
  for index in case.index:
    assert distance(index) < SAME, set(index)


def test_permuting_without_one_member_changes_something(case, distance):
  for index in case.index:
    for left_out in index:
      if left_out[0].endswith('key/bias'):
        continue  # It moves all logits of a query alike: the softmax is blind.
      some = {axis: index[axis] for axis in index if axis != left_out}
      assert not some or distance(some) > OTHER, (left_out, set(index))


def test_permuting_fixed_axes_changes_something(case, distance):
  for axis in case.fixed:
    assert distance(whole(case, axis)) > OTHER, axis
  for index in case.stuck:
    assert distance(index) > OTHER, set(index)


def test_every_axis_has_a_verdict_and_only_one(case):
  rows = zip(trees.paths(case.params), jax.tree.leaves(case.params))
  every = {(path, axis) for path, w in rows
           for axis, size in enumerate(w.shape) if size > 1}
  free = {axis for tie in case.free for axis in tie}
  assert every == free | case.fixed | case.either
  assert not free & case.fixed and not free & case.either


def test_kernels_are_what_has_flops(case):
  if case.name == 'optimized_lstm':
    pytest.skip('kernels are joined before the product: FLOPs name none')
  counted = flops(case.fn, case.params, *case.inputs).by_parameter
  multiplied = {path for path, count in counted.items() if count}
  assert set(case.kernels) == multiplied - set(TWICE.get(case.name, ()))
