"""Paths, rules and alignment over every kind of tree."""

import collections
import dataclasses
import re

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse._utils import trees

Pair = collections.namedtuple('Pair', 'w b')
Attention = collections.namedtuple('Attention', 'query key value')


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
  kernel: jax.Array
  bias: jax.Array


class Net(nnx.Module):
  """Two linear layers, one of them in a list."""

  def __init__(self, rngs):
    self.inner = nnx.Linear(2, 3, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(3, 1, use_bias=False, rngs=rngs)])
    self.norm = nnx.BatchNorm(3, rngs=rngs)


# Paths.


@pytest.mark.parametrize('tree, want', [
    ({'mlp': {'kernel': 1., 'bias': 2.}}, ['mlp/bias', 'mlp/kernel']),
    ([1., [2., {'k': 3.}]], ['0', '1/0', '1/1/k']),
    ((1., (2., 3.)), ['0', '1/0', '1/1']),
    ({'a': Pair(1., [2.])}, ['a/w', 'a/b/0']),
    ({'a': Layer(kernel=1., bias=2.)}, ['a/kernel', 'a/bias']),
    ({3: 1., 20: {'k': 2.}}, ['3', '20/k']),
    ({'a/b': {'c': 1.}}, ['a/b/c']),
    (collections.OrderedDict(z=1., a=2.), ['z', 'a']),
    ({'value': 1., 'a': {'value': 2.}}, ['a/value', 'value']),
    ({'a': None, 'b': 1.}, ['b']), ({}, []), (None, []), (5., [''])], ids=str)
def test_paths_join_keys_with_slashes(tree, want):
  assert sorted(trees.paths(tree)) == sorted(want)
  assert len(trees.paths(tree)) == len(jax.tree.leaves(tree))


def test_paths_are_in_the_order_of_leaves():
  tree = {'mlp': Pair(1., 2.), 'head': [3., 4.], 'a': Layer(5., 6.)}
  assert dict(zip(trees.paths(tree), jax.tree.leaves(tree))) == {
      'mlp/w': 1., 'mlp/b': 2., 'head/0': 3., 'head/1': 4., 'a/kernel': 5.,
      'a/bias': 6.}


def test_paths_of_nnx_state_have_no_value():
  model = Net(nnx.Rngs(0))
  _, params, _ = nnx.split(model, nnx.Param, ...)
  assert sorted(trees.paths(params)) == [
      'inner/bias', 'inner/kernel', 'layers/0/kernel', 'norm/bias',
      'norm/scale']
  assert sorted(trees.paths(nnx.state(model, nnx.Param))) == sorted(
      trees.paths(params))


def test_paths_of_linen_boxes_have_no_value():
  boxed = linen.with_partitioning(
      linen.initializers.lecun_normal(), ('in', 'out'))
  variables = linen.Dense(3, kernel_init=boxed).init(
      jax.random.key(0), jnp.ones((1, 2)))
  assert trees.paths(variables) == ['params/bias', 'params/kernel']
  plain = linen.meta.unbox(variables)
  assert trees.paths(plain) == trees.paths(variables)


def test_a_field_that_is_called_value_keeps_its_name():
  tree = {'attention': Attention(query=1., key=2., value=3.)}
  assert trees.paths(tree) == [
      'attention/query', 'attention/key', 'attention/value']
  assert trees.paths(Attention(1., 2., 3.)) == ['query', 'key', 'value']


def test_map_with_path_hands_over_path_and_leaves():
  tree = {'a': [1., 2.], 'b': 3.}
  got = trees.map_with_path(
      lambda path, x, y: (path, x, y), tree, {'a': [None, 5.], 'b': None})
  assert got == {'a': [('a/0', 1., None), ('a/1', 2., 5.)],
                 'b': ('b', 3., None)}


def test_align_gives_rows_with_none():
  params = {'a': [1., 2.], 'b': 3., 'c': None}
  masks = {'a': [None, True], 'b': None, 'c': None}
  assert trees.align(params, masks, params) == [
      ('a/0', 1., None, 1.), ('a/1', 2., True, 2.), ('b', 3., None, 3.)]
  assert trees.align({}, {}) == []


# Rules.


_TREE = {'mlp': {'kernel': 0., 'bias': 0.}, 'head': {'kernel': 0.},
         'scale': 0.}


def test_the_first_full_match_wins():
  rules = {'mlp/kernel': 'a', '.*/kernel': 'b', '.*': 'c'}
  assert trees.match_rules(rules, _TREE) == {
      'mlp': {'kernel': 'a', 'bias': 'c'}, 'head': {'kernel': 'b'},
      'scale': 'c'}
  rules = {'.*kernel': 'b', 'mlp/kernel': 'a'}
  assert trees.match_rules(rules, _TREE)['mlp'] == {
      'kernel': 'b', 'bias': None}


@pytest.mark.parametrize('regex', ['kernel', 'mlp', 'mlp/ker', 'lp/kernel'])
def test_a_part_of_a_path_is_no_match(regex):
  with pytest.raises(ValueError, match='matches no parameter'):
    trees.match_rules({regex: 1}, _TREE)


def test_a_leaf_without_a_rule_is_none():
  assert trees.match_rules({'scale': 1}, _TREE) == {
      'mlp': {'kernel': None, 'bias': None}, 'head': {'kernel': None},
      'scale': 1}
  assert trees.match_rules({}, {'a': 1.}) == {'a': None}


def test_none_is_a_value_that_wins():
  got = trees.match_rules({'mlp/.*': None, '.*': 1}, _TREE)
  assert got['mlp'] == {'kernel': None, 'bias': None} and got['scale'] == 1


def test_a_rule_that_only_loses_is_used():
  assert trees.match_rules({'.*': 1, 'scale': 2}, {'scale': 0.}) == {
      'scale': 1}
  assert trees.match_rules({'scale': 1, '.*': None}, {'scale': 0.}) == {
      'scale': 1}


def test_an_unused_rule_is_an_error_that_shows_some_paths_and_counts_others():
  tree = _TREE | {f'layer{i}': 0. for i in range(40)}
  with pytest.raises(ValueError) as error:
    trees.match_rules({'.*/kernel': 1, 'mpl/kernel': 2}, tree)
  text = str(error.value)
  assert "'mpl/kernel'" in text and 'matches no parameter' in text
  assert 'Similar paths: mlp/kernel' in text and 'layer39' not in text
  assert f'and {len(trees.paths(tree)) - 3} more' in text and '\n' not in text


@pytest.mark.parametrize('regex', ['(', '*', '[a', '(?P<x>', 3, None])
def test_a_bad_regex_is_an_error_that_shows_one(regex):
  with pytest.raises(ValueError, match=re.escape(repr(regex))) as error:
    trees.match_rules({regex: 1}, _TREE)
  assert 'regular expression' in str(error.value)
  assert '.*/kernel' in str(error.value)


def test_a_tree_without_leaves_maps_to_itself():
  for empty in ({}, None, [], {'a': {}}, optax.MaskedNode()):
    assert trees.match_rules({'.*/kernel': 1}, empty) == empty


def test_one_regex_serves_every_library():
  rules = {'.*kernel': 's', '.*': None}
  model = Net(nnx.Rngs(0))
  _, params, _ = nnx.split(model, nnx.Param, ...)
  chosen = dict(zip(trees.paths(params), (
      row[2] for row in trees.align(params, trees.match_rules(rules, params)))))
  assert {path for path, rule in chosen.items() if rule == 's'} == {
      'inner/kernel', 'layers/0/kernel'}
  tree = [Layer(1., 2.)]
  got = trees.match_rules(rules, tree)
  assert (got[0].kernel, got[0].bias) == ('s', None)
  assert trees.match_rules({'w': 1}, Pair(0., 0.)) == Pair(1, None)


# Structures.


@pytest.mark.parametrize('params, masks', [
    ({'a': 1., 'b': 2.}, {'a': True, 'b': None}),
    ({'a': 1., 'b': 2.}, {'a': optax.MaskedNode(), 'b': None}),
    ({'a': None, 'b': [2.]}, {'a': None, 'b': [None]}), ({}, {}),
    (Pair(1., 2.), Pair(None, True))], ids=str)
def test_none_and_masked_nodes_fit_any_structure(params, masks):
  trees.same_structure(params, masks)


@pytest.mark.parametrize('params, masks', [
    ({'a': 1., 'b': 2.}, {'a': True}), ({'a': 1.}, {'a': True, 'b': True}),
    ({'a': [1.]}, {'a': (True,)}), ({'a': [1., 2.]}, {'a': [True]}),
    ({'a': {'k': 1.}}, {'a': True}), ({'a': {'k': 1.}}, None),
    ({'a': 1., 'b': 2.}, {'a': {'k': True}, 'b': None}),
    ({'a': 1.}, {'a': [True, True]})], ids=str)
def test_another_structure_is_an_error_that_names_both(params, masks):
  with pytest.raises(ValueError, match='structure') as error:
    trees.same_structure(params, masks, 'spares')
  text = str(error.value)
  assert '`spares`' in text
  for tree in (params, masks):
    assert all(path in text for path in trees.paths(tree) or ['nothing'])
  with pytest.raises(ValueError, match='`masks` must have the structure'):
    trees.map_masked(lambda w, m: w, params, masks)


def test_of_many_paths_those_that_differ_are_shown():
  params = {f'layer{i:02}': 0. for i in range(40)}
  masks = dict.fromkeys(params, True) | {'other': True}
  del masks['layer30']
  with pytest.raises(ValueError, match=(
      'Got layer30, layer00, layer01 and 37 more in parameters and other, '
      'layer00, layer01 and 37 more in masks')):
    trees.same_structure(params, masks)


@pytest.mark.parametrize('mask, dense', [
    (None, True), (optax.MaskedNode(), True), (np.array(True), False),
    (np.zeros((2, 2), bool), False), (False, False)], ids=str)
def test_dense_is_none_or_a_masked_node(mask, dense):
  assert trees.is_dense(mask) is dense


def test_map_masked_treats_sparse_and_dense_apart():
  params = {'a': 1., 'b': 2., 'c': 3.}
  masks = {'a': True, 'b': None, 'c': optax.MaskedNode()}
  other = {'a': 10., 'b': 20., 'c': 30.}
  got = trees.map_masked(
      lambda w, m, o: (w, m, o), params, masks, other,
      dense=lambda w, o: w + o)
  assert got == {'a': (1., True, 10.), 'b': 22., 'c': 33.}
  got = trees.map_masked(lambda w, m: w, params, masks)
  assert got == {'a': 1., 'b': None, 'c': None}


@pytest.mark.parametrize('look', [
    lambda tree: trees.match_rules({'.*': 1}, tree),
    lambda tree: trees.align(tree),
    lambda tree: trees.map_with_path(lambda path, leaf: path, tree)])
def test_two_parameters_with_one_path_are_an_error_that_names_both(look):
  tree = {'enc/w': 1., 'enc': {'w': 2.}}
  with pytest.raises(ValueError, match=(
      r"\['enc'\]\['w'\] and \['enc/w'\] have the path 'enc/w'")):
    look(tree)
