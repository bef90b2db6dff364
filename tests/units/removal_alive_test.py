"""Which units are alive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import infer_ties
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from tests._lib.near import same
from tests._lib.removals import arrays
from tests._lib.removals import HIDDEN
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights


def chain(p, x):
  for name in ('a', 'b', 'c'):
    x = jnp.tanh(x @ p[name] + p[f'{name}_bias'])
  return x @ p['out']


def chained():
  return {path: np.array(w) for path, w in weights({
      'a': (3, 4), 'a_bias': (4,), 'b': (4, 5), 'b_bias': (5,), 'c': (5, 6),
      'c_bias': (6,), 'out': (6, 2)}).items()}


def test_a_chain_dies_backwards():
  params = chained()
  ties = infer_ties(chain, params, np.ones(3, np.float32))
  params['out'][2:] = 0  # So that of c only units 0 and 1 are read,
  params['c'][:4, :2] = 0  # which read only unit 4 of b,
  params['b'][1:, 4] = 0  # which reads only unit 0 of a.
  live = alive(params, ties)
  find = lambda path: live[ties.of(path, 1)[0].name].nonzero()[0].tolist()
  assert [find('a'), find('b'), find('c')] == [[0], [4], [0, 1]]
  x = np.ones(3, np.float32)
  same(chain(slim(params, ties, live), x), chain(params, x))


def test_one_unit_stays():
  params = chained()
  ties = infer_ties(chain, params, np.ones(3, np.float32))
  params['out'][:] = 0
  live = alive(params, ties)
  assert [live[ties.of(path, 1)[0].name].sum() for path in 'abc'] == [1] * 3
  small = slim(params, ties, live)
  same(chain(small, np.ones(3, np.float32)), np.zeros(2))


def test_every_group_keeps_as_many_as_the_fullest():
  tie = Tie(4, (Member('up', 2, along=((0, 1),), role='makes'),
                Member('down', 1, along=((0, 1),), role='reads')), (3,),
            name='t')
  params = {'up': np.arange(24.).reshape(3, 2, 4), 'down': np.ones((3, 4, 1))}
  params['down'][0, 0] = params['down'][1, :3] = params['down'][2, 1:] = 0
  live = alive(params, [tie])['t'].astype(int).tolist()
  assert live == [[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
  small = slim(params, [tie], alive(params, [tie]))
  assert small['up'][:, 0].tolist() == [
      [1., 2., 3.], [8., 9., 11.], [16., 17., 18.]]


@pytest.mark.parametrize('read', [
    lambda h: h.sum(), lambda h: h @ jnp.tanh(h), jnp.cumsum, jnp.max])
def test_what_is_read_without_a_kernel_is_alive(read):
  def fn(p, x):
    h = jax.nn.relu(x @ p['fc1'] + p['bias'])
    return h @ p['fc2'], read(h)
  params = arrays()
  ties = infer_ties(fn, params, np.ones(2, np.float32))
  params['fc2'][1:] = 0
  assert alive(params, ties)[ties.of('bias', 0)[0].name].all()


def test_what_is_all_zero_is_dead_though_a_sum_reads_it():
  def fn(p, x):
    h = jax.nn.relu(x @ p['fc1'] + p['bias'])
    return h @ p['fc2'], h.sum()
  params = arrays()
  ties = infer_ties(fn, params, np.ones(2, np.float32))
  params['fc1'][:, 1] = params['bias'][1] = params['fc2'][1] = 0
  live = alive(params, ties)
  assert live[ties.of('bias', 0)[0].name].tolist() == [True, False, True, True]
  same(fn(slim(params, ties, live), np.ones(2, np.float32)),
       fn(params, np.ones(2, np.float32)))


def test_of_unknown_roles_all_kernels_must_be_zero():
  tie = Tie(4, tuple(m._replace(role=None) for m in HIDDEN.members), name='t')
  params = arrays()
  params['fc2'][1:] = params['fc1'][:, 2:] = 0
  assert alive(params, [tie])['t'].tolist() == [True, True, False, False]
  params['fc2'] = params['fc2'][:, 0]  # It may be a vector that reads.
  assert alive(params, [tie])['t'].tolist() == [True, True, True, True]


def test_nan_is_alive():
  params = arrays()
  params['fc2'][1:] = 0
  params['fc2'][2, 1] = np.nan
  assert alive(params, [HIDDEN])['hidden'].tolist() == [
      True, False, True, False]


def test_a_part_of_other_axes_cannot_go_alone():
  """Two units' kernels in one array: both lose the same, or nothing."""
  first, second = (Tie(4, (
      Member('both', 2, elsewhere=(Elsewhere(0, i),), role='makes'),
      Member(f'out{i}', 0, role='reads')), name=f't{i}') for i in range(2))
  params = {'both': np.ones((2, 3, 4)), 'out0': np.zeros((4, 1)),
            'out1': np.zeros((4, 1))}
  assert alive(params, [first])['t0'].all()
  keep = np.array([True, False, True, False])
  with pytest.raises(ValueError, match="tie 't0' from .* not leave a rect"):
    slim(params, [first, second], {'t0': keep})
  with pytest.raises(ValueError, match='not leave a rectangular'):
    slim(params, [first, second], {'t0': keep, 't1': ~keep})
  small = slim(params, [first, second], {'t0': keep, 't1': keep})
  assert small['both'].shape == (2, 3, 2)


def test_ties_that_are_groups_of_each_other_go_one_after_the_other():
  def fn(p, x):
    h = jnp.tanh(jnp.einsum('nd,dhk->nhk', x, p['w']))
    return jnp.einsum('nhk,hkd->nd', h, p['out'])
  params = weights({'w': (4, 6, 5), 'out': (6, 5, 2)})
  stays = np.random.default_rng(0).permuted(
      np.arange(30).reshape(6, 5) % 5 > 1, axis=1)
  params['out'] = jnp.where(stays[..., None], params['out'], 0.)
  x, sizes = data(3, 4), []
  for _ in range(2):
    ties = infer_ties(fn, params, x, check=False)
    small = slim(params, ties, alive(params, ties))
    same(fn(small, x), fn(params, x))
    params, sizes = small, [*sizes, small['w'].shape]
  assert sizes[0] == (4, 6, 3)
  ties = infer_ties(fn, params, x, check=False)
  keep = {tie.name: np.argsort(np.random.default_rng(0).random(tie.shape)) > 0
          for tie in ties.free}
  with pytest.raises(ValueError, match='vice versa'):
    slim(params, ties, keep)


def test_empty_parameters_do_no_harm():
  tie = HIDDEN.members + (Member('none', 1, elsewhere=(Elsewhere(0),)),)
  params = arrays() | {'none': np.ones((0, 4))}
  params['fc2'][1:] = 0
  live = alive(params, [Tie(4, tie, name='t')])
  assert live['t'].tolist() == [True, False, False, False]
