"""Ties of the zoo's models, and the check of ties."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse._utils import trees
from jaxsparse.units.reordering import reorder
from tests._lib import zoo
from tests._lib.perceptron import HIDDEN
from tests._lib.perceptron import mlp
from tests._lib.perceptron import params
from tests._lib.perceptron import X

RELATIVE = 1e-5  # Of the largest output, in float32.


def places(tie):
  return {(member.path, member.axis) for member in tie.members}


def random_order(tie, rng):
  return rng.permuted(
      np.broadcast_to(np.arange(tie.size), tie.shape), axis=-1)


@pytest.fixture(scope='module', params=zoo.CASES, ids=lambda c: c.__name__)
def case_and_ties(request):
  case = request.param()
  return case, jaxsparse.infer_ties(case.fn, case.params, *case.inputs)


def test_every_tie_that_is_there_is_found(case_and_ties):
  case, ties = case_and_ties
  for expected in case.free:
    assert any(expected <= places(tie) for tie in ties.free), sorted(expected)


def test_nothing_is_free_that_must_not_move(case_and_ties):
  case, ties = case_and_ties
  free = set().union(*map(places, ties.free))
  assert not free & case.fixed


def test_every_axis_is_told_of(case_and_ties):
  case, ties = case_and_ties
  told = set().union(*map(places, ties))
  assert told == {
      (path, axis) for path, w in zip(
          trees.paths(case.params), jax.tree.leaves(case.params))
      for axis, size in enumerate(w.shape) if size > 1}
  assert all(tie.fixed for tie in ties if not tie.free)


def test_permuting_free_units_leaves_the_function(case_and_ties):
  case, ties = case_and_ties
  rng, run = np.random.default_rng(1), jax.jit(case.fn)
  params = jax.tree.map(np.asarray, case.params)  # Compiles nothing.
  before = np.asarray(run(params, *case.inputs))
  orders = [(tie, random_order(tie, rng)) for tie in ties.free]
  after = np.asarray(run(
      reorder(params, orders, shapes=ties.shapes), *case.inputs))
  assert np.abs(after - before).max() <= RELATIVE * np.abs(before).max()




def test_a_tie_by_hand_is_what_is_inferred():
  found, = jaxsparse.infer_ties(mlp, params(), X).free
  assert set(found.members) == set(HIDDEN.members)
  assert jaxsparse.units.check_ties(mlp, params(), [HIDDEN], X) <= RELATIVE


def test_shapes_suffice():
  shapes = jax.eval_shape(params)
  ties = jaxsparse.infer_ties(mlp, shapes, jax.ShapeDtypeStruct((4,), 'f4'))
  assert ties == jaxsparse.infer_ties(mlp, params(), X)


def test_units_are_kept_where_their_number_matters():
  def normed(params, x):
    h = x @ params['fc1'] + params['bias']
    return (h - h.mean()) @ params['fc2']

  def attended(params, x):
    return jax.nn.softmax(x @ params['fc1'] + params['bias']) @ params['fc2']
  for f, why in ((normed, 'div by 6, which becomes 5'),
                 (attended, 'reduce_max')):
    tie, = jaxsparse.infer_ties(f, params(), X).free
    assert why in tie.kept
  assert jaxsparse.infer_ties(mlp, params(), X).free[0].kept is None


def test_rotary_pairs_move_with_their_frequencies_only():
  p = {'q': np.ones((4, 6), np.float32), 'k': np.ones((4, 6), np.float32),
       'frequency': np.arange(3, dtype=np.float32)}

  def rotate(x, angle):
    a, b = jnp.split(x, 2)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle),
                            a * jnp.sin(angle) + b * jnp.cos(angle)])

  def learned(p, x):
    return rotate(x @ p['q'], p['frequency']) @ rotate(
        x @ p['k'], 2 * p['frequency'])

  def constant(p, x):
    return learned(p | {'frequency': jnp.arange(3.)}, x)
  tie, = jaxsparse.infer_ties(learned, p, X).free
  assert tie.size == 3 and {str(m) for m in tie.members} >= {
      'frequency[*]', 'q[:, *]', 'q[:, 3+*]', 'k[:, *]', 'k[:, 3+*]'}
  del p['frequency']
  ties = jaxsparse.infer_ties(constant, p, X)
  assert not ties.free
  assert {tie.fixed for tie in ties.of('q', 1)} == {'iota'}


def test_what_makes_and_reads_units_is_told():
  def tied(p, tokens):
    x = p['table'][tokens] * p['scale'][None]
    y = jnp.einsum('nd,dhk->nhk', x, p['heads'])
    return jnp.einsum('nhk,hkd->nd', y, p['out']) @ p['table'].T
  shapes = {'table': (7, 6), 'scale': (6,), 'heads': (6, 2, 4),
            'out': (2, 4, 6)}
  p = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  ties = jaxsparse.infer_ties(tied, p, np.arange(3), check=False)
  role = lambda path, axis: {
      m.role for tie in ties.of(path, axis) for m in tie.members
      if (m.path, m.axis) == (path, axis)}
  assert role('table', 1) == role('heads', 0) == {'reads'}
  assert role('out', 0) == role('out', 1) == {'reads'}
  assert role('heads', 1) == role('heads', 2) == role('out', 2) == {'makes'}
  assert role('table', 0) == {'makes'} and role('scale', 0) == {'beside'}


def test_what_reads_units_without_a_kernel_is_told():
  both = lambda read: lambda p, x: (
      mlp(p, x), read(x @ p['fc1'] + p['bias']))
  for read, why in (
      (lambda h: h.sum(), 'reduce_sum over it'),
      (lambda h: h @ jax.nn.relu(h), 'dot_general over it'),
      (lambda h: (h * h).sum() * 2., 'reduce_sum over it')):
    tie, = jaxsparse.infer_ties(both(read), params(), X).free
    assert tie.read == why and tie.kept is None
  assert jaxsparse.infer_ties(mlp, params(), X).free[0].read is None


def test_of_kernels_made_of_two_the_first_is_the_reader():
  def merged(p, x):
    return jax.nn.relu(x @ p['fc1']) @ (p['down'] @ p['up'])

  def turned(p, x):
    return jax.nn.relu(x @ p['fc1']) @ (p['up'].T @ p['down'].T).T
  shapes = {'fc1': (4, 6), 'down': (6, 2), 'up': (2, 8)}
  p = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  hidden, = jaxsparse.infer_ties(merged, p, X).of('fc1', 1)
  assert hidden.read is None and hidden.kept is None
  assert {m.path: m.role for m in hidden.members} == {
      'fc1': 'makes', 'down': 'reads'}
  rank, = jaxsparse.infer_ties(merged, p, X).of('up', 0)
  assert {m.path: m.role for m in rank.members} == {
      'down': 'beside', 'up': 'reads'}
  # The other way round it is not known, so that all has to be zero.
  hidden, = jaxsparse.infer_ties(turned, p, X).of('fc1', 1)
  assert hidden.read == 'dot_general over it' and hidden.kept is None


def test_what_has_a_kernel_for_every_unit_is_no_reader_of_it():
  def each(p, x):
    h = jax.nn.relu(x @ p['in'])
    y = jnp.einsum('nh,hk->nhk', h, p['each'])
    return h @ p['out'], y.sum(1)
  shapes = {'in': (4, 6), 'each': (6, 2), 'out': (6, 3)}
  p = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  hidden, = jaxsparse.infer_ties(each, p, X[None]).of('in', 1)
  assert hidden.read == 'reduce_sum over it' and hidden.kept is None


def test_hidden_averages_of_haiku_move_with_those_that_are_used():
  def net(x, train):
    norm = hk.BatchNorm(True, True, 0.9)
    return hk.Linear(3)(jax.nn.relu(norm(hk.Linear(8)(x), is_training=train)))
  f = hk.without_apply_rng(hk.transform_with_state(net))
  x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
  with jax.numpy_dtype_promotion('standard'):
    with jax.numpy_rank_promotion('allow'):
      weights, state = f.init(jax.random.key(0), x, True)
      _, state = f.apply(weights, state, x, True)
      both = {'params': weights, 'state': state}
      ties = jaxsparse.infer_ties(
          lambda both, x: f.apply(both['params'], both['state'], x, False)[0],
          both, x)
  tie, = ties.of('params/linear_1/w', 1)
  moved = jaxsparse.permute(both, ties, {tie.name: np.arange(8)[::-1]})
  smaller = jaxsparse.slim(both, ties, {tie.name: np.arange(8) < 5})
  for name in ('mean_ema', 'var_ema'):
    for changed, size in ((moved, 8), (smaller, 5)):
      ema = changed['state'][f'batch_norm/~/{name}']
      assert ema['hidden'].shape == ema['average'].shape == (1, size)
      np.testing.assert_allclose(ema['hidden'] / 0.1, ema['average'], rtol=1e-4)


@pytest.mark.parametrize('top', [
    lambda h: jax.lax.top_k(h, 2, axis=0)[0],
    lambda h: jax.vmap(lambda h: jax.lax.top_k(h, 2)[0], 1, 1)(h)],
                         ids=['axis', 'vmap'])
def test_units_stay_themselves_where_the_highest_tokens_are_taken(top):
  p = {'w1': np.ones((4, 8), np.float32), 'w2': np.ones((8, 3), np.float32)}
  fn = lambda p, x: top(jax.nn.relu(x @ p['w1'])) @ p['w2']
  ties = jaxsparse.infer_ties(fn, p, np.ones((6, 4), np.float32))
  free, = (tie for tie in ties if not (tie.fixed or tie.kept))
  assert free.size == 8 and {m.path for m in free.members} == {'w1', 'w2'}
