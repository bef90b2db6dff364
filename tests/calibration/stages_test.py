"""Data that go on from stage to stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.calibration import _stages
from jaxsparse.graph.segments import Leaf

RNG = np.random.default_rng(0)
PARAMS = {'a': RNG.normal(size=(4, 4)).astype(np.float32),
          'b': RNG.normal(size=(4, 2)).astype(np.float32)}
X = [(RNG.normal(size=(n, 4)).astype(np.float32),) for n in (5, 3)]


def fn(p, x):
  return jnp.sin(x @ p['a']) @ p['b']


def test_statistics_are_of_the_parameters_that_data_went_through():
  data = _stages.Data(fn, PARAMS, X, None, 'norm')
  first, second = data.in_turn(['a', 'b'])
  x = np.concatenate([x for x, in X])
  found = first.look(PARAMS)[Leaf('a')]
  np.testing.assert_allclose(found.sum, (x**2).sum(0), rtol=1e-5)
  assert found.count == len(x)
  changed = {**PARAMS, 'a': 2 * PARAMS['a']}
  first.go_on(changed)
  np.testing.assert_allclose(
      second.look(changed)[Leaf('b')].sum,
      (np.sin(x @ changed['a'])**2).sum(0), rtol=1e-4)


def test_stages_that_look_at_nothing():
  stages = _stages.Data(fn, PARAMS, X, None, 'norm').alone(['b', 'a'])
  assert [stage.kernels for stage in stages] == [(Leaf('b'),), (Leaf('a'),)]
  assert stages[0].look(PARAMS) == {}


def test_batches_that_take_another_way_are_told():
  def either(p, x):
    if len(x) > 4:
      return fn(p, x)
    return x @ p['b'] + (x @ p['b']).sum() * jnp.sin(x @ p['a'])[:, :2]
  with pytest.raises(ValueError, match='the same order'):
    _stages.Data(either, PARAMS, X, None, 'norm').in_turn(['a', 'b'])


@jax.tree_util.register_pytree_node_class
class _Batch:
  """A class that says nothing of its arrays, as `object` does."""

  def __init__(self, x):
    self.x = x

  def __repr__(self):
    return 'a batch'

  def tree_flatten(self):
    return (self.x,), None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


def test_batches_of_other_shapes_have_chains_of_their_own():
  """Here the code has the number of inputs in it."""
  mean = lambda p, batch: fn(p, batch.x) / len(batch.x)
  one, other, same = _stages.chains(
      mean, PARAMS, [(_Batch(x),) for x, in [*X, X[0]]], ['a', 'b'],
      outputs=True)
  assert one is same is not other


def test_equal_blocks_are_compiled_once():
  def net(p, x):
    for layer in p:
      x = x + jax.nn.gelu(x @ layer['up']) @ layer['down']
    return x
  p = [{'up': np.ones((4, 8), np.float32), 'down': np.ones((8, 4), np.float32)}
       ] * 6
  stages = _stages.Data(net, p, X[:1], None, 'norm').in_turn(
      [f'{i}/{n}' for i in range(6) for n in ('up', 'down')])
  before = _stages.run._cache_size(), _stages._measure._cache_size()
  for stage in stages:
    stage.look(p)
    stage.go_on(p)
  after = _stages.run._cache_size(), _stages._measure._cache_size()
  assert after[0] - before[0] <= 5 and after[1] - before[1] <= 3
