"""Several rules as one: each keeps to its own parameters."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse._utils import trees
from tests._lib.compiled import once


def _params():
  return {'a': {'kernel': jax.random.normal(jax.random.key(0), (8, 4)),
                'bias': jnp.ones(4)},
          'b': {'kernel': jax.random.normal(jax.random.key(1), (4, 6))},
          'c': [jax.random.normal(jax.random.key(2), (6, 2)), None]}


def _rules():
  return {
      'a': jaxsparse.prune(
          {'a/kernel': jaxsparse.nm(2, 4)}, when=schedules.every(2)),
      'b': jaxsparse.prune(
          {'b.*': jaxsparse.unstructured(), '.*': None},
          score=jaxsparse.snip_momentum(),
          distribution=jaxsparse.uniform(.5),
          schedule=schedules.linear(0, 4), when=schedules.every(1)),
      'c': jaxsparse.prune_and_grow(
          {'c/0': jaxsparse.unstructured()}, sparsity=.5,
          grow=jaxsparse.scores.random(0), when=schedules.every(2),
          fraction=lambda step: .3)}


def test_every_parameter_has_the_masks_of_its_rule_step_for_step():
  params, parts = _params(), _rules()
  rule = rules.combine(*parts.values())
  step = once(lambda state, params: rule.update(params, state, params)[1])
  alone = jax.jit(lambda states, params: {
      k: parts[k].update(params, states[k], params)[1] for k in parts})
  state, states = jax.jit(lambda params: (rule.init(params), {
      name: part.init(params) for name, part in parts.items()}))(params)
  for count in range(6):
    masks = state.masks
    for name in parts:
      chex.assert_trees_all_equal(masks[name], states[name].masks[name])
    assert masks['a']['bias'] is None and int(state.count) == count
    assert bool(state.dense) == bool(states['c'].dense)
    params = jax.tree.map(lambda w: w * 1.5 - .2, params)
    state, states = step(state, params), alone(states, params)


def test_updates_reach_every_rule():
  rule = rules.combine(
      jaxsparse.prune({'a': jaxsparse.nm(1, 2)}),
      jaxsparse.prune({'b': jaxsparse.nm(1, 2)}))
  params = {'a': jnp.array([[1.], [2.]]), 'b': jnp.array([[1.], [2.]])}
  updates = {'a': jnp.array([[9.], [0.]]), 'b': jnp.array([[0.], [0.]])}
  masks = jax.jit(lambda params, updates: rule.update(
      params, rule.init(params), params, updates=updates)[0])(params, updates)
  assert np.asarray(masks['a']).ravel().tolist() == [True, False]
  assert np.asarray(masks['b']).ravel().tolist() == [False, True]


def test_dense_gradients_are_used_if_any_rule_uses_them():
  class State(NamedTuple):
    dense: Any
  states = [State(None), State(jnp.array(False)), State(jnp.array(True))]
  for which, want in (((0, 0), None), ((0, 1), False), ((1, 0, 2), True)):
    dense = rules.CombinedState(tuple(states[i] for i in which)).dense
    assert (dense is None) == (want is None)
    assert want is None or bool(dense) == want


def test_a_parameter_of_two_rules_is_an_error_that_names_it():
  one = jaxsparse.prune({'.*kernel': jaxsparse.nm(2, 4), '.*': None})
  rule = rules.combine(_rules()['c'], one, _rules()['a'])
  params = _params()
  params['b']['kernel'] = params['b']['kernel'][:, :4]
  with pytest.raises(ValueError, match=r"(?s)a/kernel.*\[1, 2\].*None"):
    rule.init(params)


def test_what_is_no_rule_is_an_error():
  with pytest.raises(ValueError, match='at least one rule'):
    rules.combine()
  with pytest.raises(ValueError, match=r'(?s)must be a rule.*Write e\.g\.'):
    rules.combine({'.*': jaxsparse.nm(2, 4)})


def test_a_tree_without_leaves_maps_to_itself():
  state = rules.combine(jaxsparse.lock(), jaxsparse.lock({})).init({})
  assert state.masks == {}


def test_placeholders_of_optax_pass():
  tx = jaxsparse.sparsify(optax.adam(.1), rules.combine(
      jaxsparse.prune({'a/kernel': jaxsparse.nm(2, 4)})))
  params = _params()
  seen = []
  optax.tree_map_params(tx, lambda x: seen.append(x.shape) or x,
                        tx.init(params))
  assert len(seen) >= 2 * len(trees.paths(params))
