"""Permutations of whole models: what is searched, and how much is kept."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import find_permutations
from jaxsparse import infer_ties
from jaxsparse import kernel_patterns
from jaxsparse import nm
from jaxsparse import permute
from jaxsparse import unstructured
from jaxsparse._utils import trees
from tests._lib import zoo
from tests._lib.near import same
from tests._lib.permutations import stack
from tests._lib.permutations import stack_params
from tests._lib.permutations import X
from tests._lib.zoo_case import data
from tests._lib.zoo_case import weights

pytestmark = pytest.mark.slow


def kept(params, rules):
  """The magnitude that N:M keeps, in all: the oracle sorts every group."""
  total = 0.
  for path, w in trees.align(params):
    pattern = next((rule for regex, rule in rules.items()
                    if re.fullmatch(regex, path)), None)
    if pattern is None:
      continue
    n, m, axis = re.fullmatch(
        r'nm\((\d+), (\d+)(?:, axis=(.*))?\)', pattern.name).groups()
    axes = np.atleast_1d(ast.literal_eval(axis or '-2')) % w.ndim
    rest = [axis for axis in range(w.ndim) if axis not in axes]
    groups = np.abs(np.float64(w)).transpose(*rest, *axes).reshape(-1, int(m))
    total += np.sort(groups, 1)[:, -int(n):].sum()
  return total


# All models of the zoo.

@pytest.mark.parametrize('build', zoo.CASES, ids=lambda build: build.__name__)
def test_no_less_is_kept_and_outputs_stay(build):
  case = build()
  params = jax.tree.map(np.asarray, case.params)  # Compiles nothing.
  fn = jax.jit(case.fn)
  expected = fn(case.params, *case.inputs)
  ties = infer_ties(case.fn, case.params, *case.inputs, check=False)
  by_name = {tie.name: tie for tie in ties}
  # Each model with the usual groups, and with two of the others in turn.
  others = [nm(1, 2), nm(1, 3), nm(2, 5), nm(1, 7)] * 2
  i = zoo.CASES.index(build) % 4
  for pattern in (nm(2, 4), *others[i:i + 2]):
    try:
      rules = kernel_patterns(
          case.fn, case.params, *case.inputs, pattern=pattern)
    except ValueError as error:
      assert 'dense' in str(error) or 'nothing' in str(error), error
      continue
    orders = find_permutations(params, ties, rules, budget=10)
    for name, order in orders.items():
      assert order.dtype == np.int32 and order.shape == by_name[name].shape
      np.testing.assert_array_equal(np.sort(order, -1), np.broadcast_to(
          np.arange(by_name[name].size), order.shape))
    permuted = permute(params, ties, orders)
    assert kept(permuted, rules) >= kept(params, rules) * (1 - 1e-6)
    if orders:
      same(fn(permuted, *case.inputs), expected)


def test_every_layer_has_its_own_order():
  params = stack_params()
  rules = {'layers/down': nm(2, 4)}
  ties = infer_ties(stack, params, X)
  orders = find_permutations(params, ties, rules, budget=100)
  (name, order), = orders.items()
  tie, = (tie for tie in ties if tie.name == name)
  assert tie.along == (3,) and order.shape == (3, 32)
  assert len({tuple(row) for row in order}) == 3
  permuted = permute(params, ties, orders)
  for i in range(3):
    one = {'down': params['layers']['down'][i]}
    alone = {'down': permuted['layers']['down'][i]}
    assert kept(alone, {'down': nm(2, 4)}) > kept(one, {'down': nm(2, 4)})
    np.testing.assert_array_equal(
        np.asarray(params['layers']['bias'][i])[order[i]],
        permuted['layers']['bias'][i])
  same(stack(permuted, X), stack(params, X))


def test_readers_of_a_stream_are_searched_jointly():
  """In sum they keep more, though one alone might keep less."""
  params = stack_params()
  rules = {'layers/up|out': nm(2, 4)}
  ties = infer_ties(stack, params, X)
  orders = find_permutations(params, ties, rules, budget=200)
  (_, order), = orders.items()
  assert order.shape == (16,)
  together = np.concatenate(
      [*np.asarray(params['layers']['up']).swapaxes(0, 0), params['out']], 1)
  expected = jaxsparse.units.find_permutation(together, nm(2, 4), budget=200)
  got = kept({'w': together[order]}, {'w': nm(2, 4)})
  assert got >= 0.999 * kept({'w': together[expected]}, {'w': nm(2, 4)})
  assert got > kept({'w': together}, {'w': nm(2, 4)})


def attention(p, x):
  q, k, v = (jnp.einsum('ntd,dhk->nthk', x, p[i]) for i in 'qkv')
  shares = jax.nn.softmax(jnp.einsum('nthk,nshk->nhts', q, k))
  y = jnp.einsum('nhts,nshk->nthk', shares, v)
  return jnp.einsum('nthk,hkd->ntd', y, p['out'])


def attention_params():
  return weights({'q': (6, 2, 16), 'k': (6, 2, 16), 'v': (6, 2, 16),
                  'out': (2, 16, 10)})


def test_every_head_has_its_own_order():
  params, x = attention_params(), data(2, 3, 6)
  ties = infer_ties(attention, params, x)
  rules = {'out': nm(2, 4)}  # Axis -2 is that of a head's values.
  orders = find_permutations(params, ties, rules, budget=200)
  (name, order), = orders.items()
  assert order.shape == (2, 16) and (order[0] != order[1]).any()
  after = permute(params, ties, orders)
  for head in range(2):
    one, two = ({'w': w['out'][head]} for w in (params, after))
    assert kept(two, {'w': nm(2, 4)}) > kept(one, {'w': nm(2, 4)})
  same(attention(after, x), attention(params, x))


def test_heads_and_values_joined_are_searched_too():
  """`kernel_patterns` joins both axes; whatever is found may not keep less."""
  params, x = attention_params(), data(2, 3, 6)
  rules = kernel_patterns(attention, params, x, pattern=nm(2, 4))
  ties = infer_ties(attention, params, x)
  orders = find_permutations(params, ties, rules, budget=200)
  after = permute(params, ties, orders)
  assert kept(after, rules) > kept(params, rules)
  same(attention(after, x), attention(params, x))


def test_kernels_of_one_tie_with_other_patterns_are_refused():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  with pytest.raises(ValueError, match='layers/up|out'):
    find_permutations(
        params, ties, {'layers/up': nm(2, 4), 'out': nm(1, 4)}, budget=2)


def test_rules_that_match_nothing_are_refused():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  with pytest.raises(ValueError, match='kernl'):
    find_permutations(params, ties, {'kernl': nm(2, 4)}, budget=2)


def test_other_patterns_and_dense_rules_do_not_matter():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  assert find_permutations(
      params, ties, {'layers/up': unstructured(), 'out': None}) == {}


def test_patterns_along_outputs_do_not_matter():
  """N:M along the outputs of what makes units moves with what reads them."""
  params = stack_params()
  ties = infer_ties(stack, params, X)
  rules = {'layers/up': nm(2, 4, axis=-1)}
  orders = find_permutations(params, ties, rules, budget=20)
  after = permute(params, ties, orders)
  assert kept(after, rules) >= kept(params, rules) * (1 - 1e-6)
  same(stack(after, X), stack(params, X))


def test_scores_may_be_searched_instead_of_weights():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  scores = jax.tree.map(lambda w: w[..., ::-1] ** 2, params)
  rules = {'layers/down|layers/up|out': nm(2, 4)}
  orders = find_permutations(scores, ties, rules, budget=50)
  assert kept(permute(scores, ties, orders), rules) > kept(scores, rules)


def test_a_seed_gives_one_result_and_a_budget_of_zero_none():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  rules = {'layers/down': nm(2, 4)}
  find = functools.partial(find_permutations, params, ties, rules)
  same(find(budget=20, seed=1), find(budget=20, seed=1))
  for order in find(budget=0).values():
    np.testing.assert_array_equal(
        order, np.broadcast_to(np.arange(order.shape[-1]), order.shape))


def test_progress_sees_every_search():
  params = stack_params()
  ties = infer_ties(stack, params, X)
  seen = []
  def progress(sweeps):
    seen.append(0)
    for sweep in sweeps:
      seen[-1] += 1
      yield sweep
  find_permutations(params, ties, {'layers/down': nm(2, 4)}, budget=7,
                    progress=progress)
  assert len(seen) == 3 and all(0 < count <= 7 for count in seen)
