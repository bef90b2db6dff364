"""Which units to keep: by rank within ties, among all of them, and floors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse import slim
from jaxsparse.units import experts
from jaxsparse.units import keep_units
from jaxsparse.units import neurons
from jaxsparse.units.choice import Budget
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from tests._lib.zoo_case import weights


def _tie():
  return Tie(8, (Member('w', 0, role='reads'),), name='u')


def test_a_global_scope_compares_shares_of_their_ties():
  ties = [Tie(4, (Member('a', 0),), name='a'),
          Tie(4, (Member('b', 0),), name='b')]
  found = {'a': np.array([1., 1., 1., 1.]),
           'b': np.array([1e4, 1., 2., 3.])}  # Nearly all is the first.
  keep = keep_units(found, ties, sparsity=0.5, scope='global')
  np.testing.assert_array_equal(keep['a'], [1, 1, 1, 0])
  np.testing.assert_array_equal(keep['b'], [1, 0, 0, 0])
  # Each keeps one, whatever the others have.
  found = {'a': np.array([0., 0., 0., 0.]), 'b': np.ones(4)}
  keep = keep_units(found, ties, sparsity=0.5, scope='global')
  assert [k.sum() for k in keep.values()] == [1, 3]


def test_groups_keep_equally_many_each_its_own():
  tie = Tie(3, (Member('w', 1, along=((0, 1),)),), along=(2,), name='w')
  found = {'w': np.array([[3., 1., 2.], [1., 5., 0.]])}
  np.testing.assert_array_equal(
      keep_units(found, [tie], count=1)['w'], [[1, 0, 0], [0, 1, 0]])
  np.testing.assert_array_equal(
      keep_units(found, [tie], sparsity=1 / 3, scope='global')['w'],
      [[1, 0, 1], [1, 1, 0]])


def test_scores_may_compete_as_they_are():
  scores = [jnp.array([4., 3.]), jnp.array([2., 1.])]
  budget = Budget(sparsity=0.5, scope='global', normalize=False)
  kept = [k.tolist() for k in budget.keep(scores)]
  assert kept == [[True, False], [True, False]]  # Each keeps one.
  scores = [jnp.arange(4., 8.), jnp.arange(4.)]
  kept = [int(k.sum()) for k in budget.keep(scores)]
  assert kept == [3, 1]


def test_a_floor_is_a_share_of_the_fair_number():
  scores = [jnp.arange(10., 20.), jnp.arange(10.)]
  for floor, least in ((0., 1), (0.5, 2), (1., 5)):
    budget = Budget(
        sparsity=0.5, scope='global', floor=floor, normalize=False)
    assert [int(k.sum()) for k in budget.keep(scores)] == [10 - least, least]


def test_progress_leads_to_the_final_number():
  budget = Budget(count=2)
  sizes = [int(budget.keep([jnp.arange(10.)], share)[0].sum())
           for share in (0., 0.25, 0.5, 1.)]
  assert sizes == [10, 8, 6, 2]


def test_errors_say_what_to_write():
  with pytest.raises(ValueError, match='either count'):
    keep_units({}, [_tie()])
  with pytest.raises(ValueError, match="scope='global'"):
    keep_units({}, [_tie()], count=1, scope='global')
  for count in (0, -1):
    with pytest.raises(ValueError, match='at least 1'):
      keep_units({}, [_tie()], count=count)
  with pytest.raises(ValueError, match='removes no unit'):
    keep_units({'u': np.ones(8)}, [_tie()], count=8)
  with pytest.raises(ValueError, match='a number for each unit'):
    keep_units({'u': np.ones(16)}, [_tie()], count=1)
  with pytest.raises(ValueError, match='must be finite'):
    keep_units({'u': np.full(8, np.nan)}, [_tie()], count=1)
  with pytest.raises(ValueError, match='at least one tie'):
    keep_units({}, [], count=1)
  with pytest.raises(ValueError, match="scope='global', floor=0.2"):
    Budget(sparsity=0.5, floor=0.2).check()


def _mixture(p, x):
  """The best two of the experts, with a correction of the scores."""
  logits = x @ p['router'] + p['bias'][None]
  _, which = jax.lax.top_k(logits + p['correction'][None], 2)
  gates = jax.nn.softmax(jnp.take_along_axis(logits, which, -1))
  h = jax.nn.relu(jnp.einsum('td,edh->teh', x, p['up']))
  y = jnp.einsum('teh,eho->teo', h, p['down'])
  taken = jax.nn.one_hot(which, p['router'].shape[1])
  return jnp.einsum('tk,tke,teo->to', gates, taken, y)


def test_experts_go_and_the_others_do_what_they_did():
  p = weights({'router': (4, 5), 'bias': (5,), 'correction': (5,),
               'up': (5, 4, 6), 'down': (5, 6, 3)})
  x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
  ties = infer_ties(_mixture, p, x)
  tie, = experts(ties)
  assert {m.path for m in tie.members} == set(p) and tie.size == 5
  assert ties[tie.name].kept and not neurons(ties).of('up', 0)
  keep = np.array([True, False, True, True, False])
  # Never chosen, which is what it is not to be there.
  without = p | {'bias': jnp.where(keep, p['bias'], -1e9)}
  small = slim(p, experts(ties), {tie.name: keep})
  assert small['up'].shape == (3, 4, 6) and small['router'].shape == (4, 3)
  np.testing.assert_allclose(
      _mixture(small, x), _mixture(without, x), rtol=1e-5, atol=1e-6)
  assert np.abs(_mixture(small, x) - _mixture(p, x)).max() > 1e-2


def test_what_has_no_router_has_no_experts():
  def grouped(p, x):
    h = jnp.einsum('tgd,gdh->tgh', x, p['up'])
    return jnp.einsum('tgh,gho->to', jnp.tanh(h), p['down'])
  p = weights({'up': (5, 4, 6), 'down': (5, 6, 3)})
  assert not experts(infer_ties(grouped, p, np.ones((2, 5, 4), 'f4'))).ties


def test_features_and_heads_are_no_experts():
  def features(p, x):
    x = x @ p['in'] + p['positions'][0]
    return jax.nn.softmax(x) @ p['out']

  def flat_heads(p, x):
    h = jnp.einsum('thd,hdk->thk', jnp.tanh(x @ p['in']).reshape(
        -1, 3, 4), p['each'])
    return jnp.tanh(h).reshape(-1, 15) @ p['out']
  x = np.ones((2, 4), 'f4')
  for fn, shapes in (
      (features, {'in': (4, 5), 'positions': (1, 2, 5), 'out': (5, 3)}),
      (flat_heads, {'in': (4, 12), 'each': (3, 4, 5), 'out': (15, 3)})):
    assert not experts(infer_ties(fn, weights(shapes), x)).ties
