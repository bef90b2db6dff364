"""Stages: who is in force when, and what stands still meanwhile."""

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from tests._lib import method_table
from tests._lib.compiled import once

_FREE = {'.*kernel': jaxsparse.unstructured()}


def _nm(n, m=4, **options):
  return jaxsparse.prune({'.*kernel': jaxsparse.nm(n, m)}, **options)


def _params():
  return {'a': {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
                'bias': jnp.ones(8)},
          'b': {'kernel': jax.random.normal(jax.random.key(1), (8, 4))}}


def _kept(masks, m=4):
  """How many of every m rows are kept, if all groups agree."""
  counts = {int(c) for mask in jax.tree.leaves(masks)
            for c in np.unique(np.asarray(mask).reshape(
                -1, m, mask.shape[-1]).sum(1))}
  assert len(counts) == 1
  return counts.pop()


def _states(rule, params, steps):
  """The rule's state at steps 0, 1, ..., and its update, compiled once."""
  update = once(rule.update)
  states = [rule.init(params)]
  for _ in range(steps):
    states.append(update(params, states[-1], params)[1])
  return states, update


def test_the_switch_is_at_its_step_in_one_compilation():
  rule = jaxsparse.stages({0: _nm(4), 3: _nm(3), 4: _nm(2), 6: _nm(1)})
  states, _ = _states(rule, _params(), 8)
  assert [_kept(s.masks) for s in states] == [4, 4, 4, 3, 2, 2, 1, 1, 1]
  assert [int(s.count) for s in states] == list(range(9))
  assert states[-1].masks['a']['bias'] is None


def test_one_stage_is_its_rule():
  params = _params()
  one, other = jaxsparse.stages({0: _nm(2)}), _nm(2)
  for ours, theirs in zip(*(_states(r, params, 2)[0] for r in (one, other))):
    chex.assert_trees_all_equal(ours.masks, theirs.masks)


def test_a_train_step_is_sparse_from_the_switch_on():
  tx = method_table.wrap(
      optax.adam(.1), jaxsparse.stages({0: _nm(4), 2: _nm(2)}),
      jaxsparse.hard())
  params = _params()
  state = tx.init(params)

  @once
  def step(params, state):
    updates, state = tx.update(params, state, params)
    return optax.apply_updates(params, updates), state
  zeros = []
  for _ in range(3):
    params, state = step(params, state)
    zeros.append(int((np.asarray(params['a']['kernel']) == 0).sum()))
  assert zeros == [0, 64, 64]


def test_masks_are_taken_over_until_the_new_rule_acts():
  rule = jaxsparse.stages({
      0: _nm(3), 2: _nm(2, when=schedules.every(5))})
  states, _ = _states(rule, _params(), 5)
  assert [_kept(s.masks) for s in states] == [3, 3, 3, 3, 3, 2]


@pytest.mark.parametrize('before, make', [
    (.95, lambda p: jaxsparse.methods.rigl(p, .9, 30, every=5)),
    (0., lambda p: jaxsparse.methods.dsr(p, .9, 30, every=5)),
    (.95, lambda p: jaxsparse.methods.mest(p, .9, 30, every=5)),
    (.5, lambda p: jaxsparse.methods.snfs(p, .9, 30, every=5)),
    (.5, lambda p: jaxsparse.methods.srigl({
        regex: jaxsparse.unstructured(balanced=True) for regex in p}, .9, 30,
                                           every=5, gamma=0.))])
def test_dynamic_training_has_its_own_number_of_weights(before, make):
  patterns = {'.*kernel': jaxsparse.unstructured()}
  rule = jaxsparse.stages({
      0: jaxsparse.prune({'.*kernel': jaxsparse.unstructured(before)}),
      10: make(patterns).rule})
  states, _ = _states(rule, _params(), 30)
  kept = [sum(int(m.sum()) for m in jax.tree.leaves(s.masks)) for s in states]
  assert kept[9] == round(160 * (1 - before))
  assert kept[-1] == pytest.approx(16, abs=4)  # Fan-ins of srigl are whole.


def test_stages_may_stand_within_stages():
  inner = jaxsparse.stages({
      0: jaxsparse.methods.rigl(_FREE, .75, 30, every=5).rule,
      20: jaxsparse.methods.rigl(_FREE, .9, 30, every=5).rule})
  rule = jaxsparse.stages({
      0: jaxsparse.prune({'.*kernel': jaxsparse.unstructured(.5)}), 10: inner})
  states, _ = _states(rule, _params(), 30)
  kept = [sum(int(m.sum()) for m in jax.tree.leaves(s.masks)) for s in states]
  assert [kept[t] for t in (9, 10, 19, 20, 30)] == [80, 40, 40, 16, 16]


def test_groups_of_another_stage_get_their_own_number():
  """The first group says nothing of the others."""
  params = {'kernel': jax.random.normal(jax.random.key(0), (16, 8))}
  rule = jaxsparse.stages({
      0: jaxsparse.prune({'kernel': jaxsparse.unstructured(.5)}),
      3: jaxsparse.prune_and_grow(
          {'kernel': jaxsparse.unstructured(balanced=True)}, sparsity=.75,
          grow=jaxsparse.scores.random(1), when=schedules.every(4))})
  states, _ = _states(rule, params, 8)
  assert len({*np.asarray(states[2].masks['kernel'].sum(0))}) > 1
  for state in states[3:]:
    assert (state.masks['kernel'].sum(0) == 4).all()


def test_thresholds_change_at_the_steps_of_the_stage():
  threshold = jaxsparse.scores.adaptive_threshold(
      1e6, fraction=.5, when=schedules.every(10))
  rule = jaxsparse.stages({0: _nm(4), 5: jaxsparse.prune_and_grow(
      {'.*kernel': jaxsparse.unstructured()}, sparsity=.5, drop=threshold,
      grow=jaxsparse.scores.random(1), when=schedules.every(10))})
  states, _ = _states(rule, _params(), 31)
  found = [float(s.scores[1][0].threshold) for s in states]
  assert [t for t in range(1, 32) if found[t] != found[t - 1]] == [10, 20, 30]


def test_a_locked_last_stage_is_that_of_its_start():
  params = _params()
  zeroed = jax.tree.map(
      lambda w, m: w if m is None else jnp.where(m, w, 0.), params,
      _nm(2).init(params).masks, is_leaf=lambda x: x is None)
  patterns = {'.*kernel': jaxsparse.unstructured()}
  rule = jaxsparse.stages({0: _nm(2), 1: jaxsparse.lock(patterns)})
  states, _ = _states(rule, zeroed, 1)
  chex.assert_trees_all_equal(states[1].masks, states[0].masks)


def test_a_lock_that_begins_later_is_not_warned_of():
  """Warnings are errors in tests."""
  lock = jaxsparse.lock(_FREE)
  rule = jaxsparse.stages({0: _nm(2), 1: jaxsparse.stages({0: lock})})
  states, _ = _states(rule, _params(), 2)
  assert [_kept(s.masks) for s in states] == [2, 2, 2]
  with pytest.warns(UserWarning, match='locks nothing'):
    jaxsparse.stages({0: lock, 1: _nm(2)}).init(_params())


def test_only_the_scores_of_the_stage_in_force_accumulate():
  rules = [_nm(n, score=jaxsparse.snip_momentum()) for n in (4, 2)]
  rule = jaxsparse.stages({0: rules[0], 3: rules[1]})
  params = _params()
  states, _ = _states(rule, params, 5)
  w = np.asarray(params['a']['kernel'])
  for step, state in enumerate(states):
    first, second = (s.accumulated['a']['kernel'] for s in state.scores)
    np.testing.assert_allclose(first, min(step, 2) * .9 * w * w, rtol=1e-5)
    np.testing.assert_allclose(
        second, max(step - 2, 0) * .9 * w * w, rtol=1e-5)


def test_the_stage_follows_from_the_step_alone():
  rule = jaxsparse.stages({0: _nm(4), 3: _nm(3), 5: _nm(2)})
  params = _params()
  states, update = _states(rule, params, 1)
  for step, kept in ((1, 4), (3, 3), (4, 3), (5, 2), (1_000, 2)):
    state = states[0]._replace(count=jnp.int32(step - 1))
    assert _kept(update(params, state, params)[0]) == kept


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_masks_stay_as_their_params_are_and_are_the_same(kind):
  rule = jaxsparse.stages({0: _nm(3), 2: _nm(2)})
  params = {'kernel': _params()['a']['kernel']}
  expected = [s.masks['kernel'] for s in _states(rule, params, 3)[0]]
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(kind,) * 2)
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, P('x', 'y'))
    params = jax.device_put(params, sharding)
    update = jax.jit(rule.update)
    state = jax.jit(rule.init)(params)
    for want in expected[1:]:
      masks, state = update(params, state, params)
      assert masks['kernel'].sharding.is_equivalent_to(sharding, 2)
      np.testing.assert_array_equal(masks['kernel'], want)


@pytest.mark.parametrize('begins', [(), (1,), (0, 5, 3), (-1, 0), (5, 0)],
                         ids=str)
def test_steps_that_do_not_go_up_from_0_are_an_error(begins):
  with pytest.raises(ValueError, match=r'(?s)increasing.*Write e\.g\. st'):
    jaxsparse.stages({begin: _nm(2) for begin in begins})


def test_stages_of_other_sparse_parameters_are_an_error():
  other = jaxsparse.prune({'a/kernel': jaxsparse.nm(2, 4)})
  with pytest.raises(ValueError, match=r'(?s)step 7.*same regular expr'):
    jaxsparse.stages({0: _nm(4), 7: other}).init(_params())


def test_a_stage_that_is_no_such_rule_is_an_error():
  for other in (
      optax.adam(1e-3),
      jaxsparse.rules.forward_backward({'.*kernel': jaxsparse.nm(1, 4)},
                                 backward=.5)):
    with pytest.raises(ValueError, match=r'(?s)step 7.*must be prune'):
      jaxsparse.stages({0: _nm(4), 7: other}).init(_params())


def test_a_stage_that_does_not_fit_is_named_when_training_begins():
  with pytest.raises(ValueError, match='b/kernel'):
    jaxsparse.stages({0: _nm(4), 7: _nm(8, 16)}).init(_params())
