"""Ties put to the test: what a check sees, and what it cannot be given."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse._utils import trees
from jaxsparse.units import check_ties
from jaxsparse.units import checking
from jaxsparse.units.reordering import reorder
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties
from tests._lib import zoo
from tests._lib.perceptron import HIDDEN
from tests._lib.perceptron import mlp
from tests._lib.perceptron import params
from tests._lib.perceptron import X

LACKS = Tie(6, (Member('fc1', 1), Member('fc2', 0)), name='lacks')


def test_a_missing_member_is_found_out_even_in_fresh_biases():
  fresh = params() | {'bias': np.zeros(6, np.float32)}
  with pytest.raises(ValueError, match="Tie 'lacks' changes the function"):
    check_ties(mlp, fresh, [HIDDEN, LACKS], X)


def test_a_check_that_could_not_fail_is_refused():
  with pytest.raises(ValueError, match='outputs of the function are all zero'):
    check_ties(
        lambda p, x: 0. * mlp(p, x), params(), [HIDDEN], X)
  with pytest.raises(ValueError, match='not finite'):
    check_ties(
        lambda p, x: mlp(p, x) / 0., params(), [HIDDEN], X)


def test_what_are_no_ties_is_told():
  with pytest.raises(ValueError, match='must be ties or a list'):
    check_ties(mlp, params(), X, [HIDDEN])


def _without(tie, member):
  """A tie that lacks one of its members."""
  return Tie(tie.size, tuple(m for m in tie.members if m != member), tie.along,
             name='wrong')


def _effect(run, case, tie):
  """How far one cycle of a tie's units takes the outputs, at the params."""
  order = np.broadcast_to(np.roll(np.arange(tie.size), 1), tie.shape)
  params = jax.tree.map(np.asarray, case.params)  # Compiles nothing.
  with jax.default_matmul_precision('highest'):  # The program of the check.
    before, after = (np.asarray(run(p, *case.inputs)) for p in (
        params, reorder(params, [(tie, order)])))
  return np.abs(after - before).max() / np.abs(before).max()


@pytest.mark.slow
@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_a_wrong_tie_is_found_in_any_model(build):
  case = build()
  run = jax.jit(case.fn)
  ties = jaxsparse.infer_ties(case.fn, case.params, *case.inputs, check=False)
  counted = collections.Counter()
  for tie in ties.free:
    # The first, the last and one between: of small ties these are all.
    some = {0, len(tie.members) // 2, len(tie.members) - 1}
    for member in [tie.members[i] for i in some] if len(some) > 1 else ():
      wrong = _without(tie, member)
      if _effect(run, case, wrong) <= 1e-3:
        counted['no effect'] += 1
        continue
      counted['wrong'] += 1
      with pytest.raises(ValueError, match="Tie 'wrong' changes the function"):
        checking.check(run, case.params, Ties((wrong,)), *case.inputs)
  # Biases of keys, which a softmax is blind to, have none.
  assert counted['wrong'] or not counted['no effect'], counted


@pytest.mark.parametrize('n', [2, 64])
def test_no_common_offset_hides_a_wrong_tie(n):
  """The weights are small, and so is what they add to a large bias."""
  rng = np.random.default_rng(0)
  p = {'fc1': rng.normal(size=(4, n)).astype(np.float32) / 2,
       'bias': rng.normal(size=n).astype(np.float32) / 50,
       'fc2': rng.normal(size=(n, 3)).astype(np.float32) / n**.5}
  lacks = Tie(n, (Member('fc1', 1), Member('fc2', 0)))
  for seed in range(5):
    with pytest.raises(ValueError, match='changes the function'):
      check_ties(mlp, p, [lacks], X, seed=seed)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_checked_in_thirty_two(dtype):
  narrow = jax.tree.map(lambda w: jnp.asarray(w, dtype), params())
  x = jnp.asarray(X, dtype)
  assert check_ties(mlp, narrow, [HIDDEN], x) <= 1e-5
  small = narrow | {'bias': narrow['bias'] * dtype(1e-2)}
  with pytest.raises(ValueError, match=r'rounding \(<= 0.00035\)'):
    check_ties(mlp, small, [LACKS], x)

  def inside(p, x):  # Which no type of parameters changes.
    return mlp(jax.tree.map(lambda w: w.astype(dtype), p), x.astype(dtype))
  check_ties(inside, narrow, [HIDDEN], x)
  with pytest.raises(ValueError, match=r'rounding \(<= 0.0[0-9]+\)'):
    check_ties(inside, narrow, [LACKS], x)


def test_what_is_zero_may_be_a_variance():
  def normed(p, x):
    return x @ p['fc1'] / jnp.sqrt(p['var']) @ p['fc2']
  p = params() | {'var': np.zeros(6, np.float32)}
  tie = Tie(6, (Member('fc1', 1), Member('var', 0), Member('fc2', 0)))
  assert check_ties(normed, p, [tie], X) <= 1e-5


def test_the_function_is_compiled_once():
  traced = []

  def counted(p, x):
    traced.append(1)
    return mlp(p, x)
  run = jax.jit(counted)
  checking.check(run, params(), Ties((HIDDEN,)), X)
  assert run._cache_size() == 1


def test_other_wrong_ties_are_named():
  p = params() | {f'{name}2': w for name, w in params().items()}

  def two(p, x):
    return mlp(p, x) + mlp({name: p[f'{name}2'] for name in params()}, x)
  also = Tie(6, (Member('fc12', 1), Member('fc22', 0)), name='also')
  with pytest.raises(ValueError, match="So do 'also': 2 of 2 ties"):
    check_ties(two, p, [LACKS, also], X)


def test_a_parameter_nearby_is_of_the_same_scale():
  rng = np.random.default_rng(0)
  for w in (np.ones(9), -np.ones(9), np.zeros(9), np.arange(9.), 1e-3 * np.ones(
      (3, 3)), np.float32(2.)):
    near = np.asarray(checking.nearby(jnp.asarray(w, jnp.float32), rng))
    assert near.shape == np.shape(w)
    assert len(np.unique(near)) == near.size
    scale = np.abs(w).max() or 1.
    assert np.abs(near).max() < 3 * scale
    if np.any(w) and np.min(w) >= 0:
      assert (near >= 0).all()
  assert checking.nearby(np.arange(3), rng).dtype == int
  assert trees.paths({'a': checking.nearby(np.zeros((0, 2), 'f4'), rng)})
