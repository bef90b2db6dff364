"""Progressive pruning: portions by hand, and where they end."""

import fractions

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import schedules
from jaxsparse.rules._progressive import progressive

_BLOCKS = {'.*kernel': jaxsparse.block((4, 2))}


def _params(seed):
  """Small integers: many scores tie, and zeros are among them."""
  draw = np.random.default_rng(seed)
  array = lambda *shape: jnp.asarray(draw.integers(-9, 10, shape), 'float32')
  return {'a': {'kernel': array(16, 8), 'bias': array(8)},
          'b': {'kernel': array(8, 6)}, 'empty': ()}


def _sparse(tree):
  return [np.asarray(tree[name]['kernel']) for name in 'ab']


def _gradual():
  return jaxsparse.prune(
      _BLOCKS, distribution=jaxsparse.uniform(0.75),
      schedule=schedules.linear(1, 9), when=schedules.every(4))


def _wandering():
  """A rule whose masks come and go at random; the first keep everything."""
  def masks_at(step):
    key = jax.random.fold_in(jax.random.key(0), step // 4)
    return {name: {'kernel': (step < 2) | jax.random.bernoulli(key, 0.5, shape)}
            for name, shape in (('a', (16, 8)), ('b', (8, 6)))} | {
                'empty': ()}

  def at(step):
    masks = masks_at(step)
    masks['a']['bias'] = None
    return jaxsparse.rules.RuleState(step, masks, ())

  def update(grads, state, params=None, **extra_args):
    del grads, params, extra_args
    state = at(state.count + 1)
    return state.masks, state
  return jaxsparse.rules.Rule(lambda _: at(jnp.zeros((), jnp.int32)), update)


def _portion(mask, target, score, left):
  """Sorts the weights that go, and keeps the best of them."""
  going = mask & ~target
  share = fractions.Fraction(float(np.float32(1) / np.float32(left)))
  count = round(int(going.sum()) * (1 - share))
  score = np.where(np.isnan(score), -1., score)
  order = np.argsort(-np.where(going, score, -2.).ravel(), kind='stable')
  stay = np.zeros(going.size, bool)
  stay[order[:count]] = True
  return target | stay.reshape(going.shape)


def _oracle(targets, scores, steps, every, end):
  """The masks at each step, from those of the rule inside.

  At `end`, where its schedule ends, all that is left goes.
  """
  masks = before = [np.ones_like(target) for target in targets[0]]
  left, due, made = 0, 0, []
  for step, (target, score) in enumerate(zip(targets, scores)):
    if any((a != b).any() for a, b in zip(target, before)):
      left, due = steps, step
    if step == end:
      left, due = min(left, 1), step
    if left and step >= due:
      masks = [_portion(*row, left) for row in zip(masks, target, score)]
      left, due = left - 1, step + every
    before = target
    made.append(masks)
  return made


def _run(inner, points, updates, **options):
  """Masks at each step: of `progressive`, and of the rule inside alone."""
  rules = progressive(inner, **options), inner

  @jax.jit
  def step(states, point, update):
    return [rule.update(point, state, point, updates=update)[1]
            for rule, state in zip(rules, states)]
  states = [rule.init(points[0]) for rule in rules]
  rows = [[_sparse(state.masks) for state in states]]
  for point, update in zip(points, updates):
    states = step(states, point, update)
    assert int(states[0].count) == int(states[1].count)
    rows.append([_sparse(state.masks) for state in states])
  return zip(*rows)


@pytest.mark.parametrize('make, steps, every', [
    (_gradual, 3, 1), (_gradual, 2, 5), (_wandering, 3, 2)],
    ids=['done in time', 'begun anew', 'weights come back'])
def test_portions_are_those_of_the_oracle(make, steps, every):
  points = [_params(i) for i in range(16)]
  points[5]['a']['kernel'] = points[5]['a']['kernel'].at[::3].set(jnp.nan)
  updates = [_params(100 + i) for i in range(16)]
  got, targets = _run(make(), points, updates, steps=steps, every=every)
  after = [points[0], *(optax.apply_updates(p, u)
                        for p, u in zip(points, updates))]
  scores = [[np.abs(w) for w in _sparse(params)] for params in after]
  end = 9 if make is _gradual else None
  for mine, expected in zip(got, _oracle(targets, scores, steps, every, end)):
    chex.assert_trees_all_equal(mine, expected)


def test_masks_end_as_those_of_the_rule_and_shrink_on_the_way():
  points = [jax.tree.map(lambda w: w.astype('bfloat16'), _params(0))] * 12
  updates = [jax.tree.map(jnp.zeros_like, points[0])] * 12
  got, targets = _run(
      jaxsparse.prune({'.*kernel': jaxsparse.channel(-1, sparsity=0.5)}),
      points, updates, steps=4, every=2)
  kept = [int(a.sum()) for a, _ in got]
  assert kept == [112, 112, 96, 96, 80, 80] + [64] * 7
  chex.assert_trees_all_equal(got[-1], targets[-1])


def test_nothing_is_left_where_a_schedule_of_growth_ends():
  params = _params(0)
  rule = progressive(jaxsparse.prune_and_grow(
      _BLOCKS, sparsity=.5, grow=jaxsparse.scores.gradient(),
      schedule=schedules.cubic(0, 6), when=schedules.every(4)), steps=4,
      every=2)
  update, state = jax.jit(rule.update), rule.init(params)
  for _ in range(6):
    masks, state = update(params, state, params)
  chex.assert_trees_all_equal(masks, state.inner.masks)
  assert [m.mean() for m in _sparse(masks)] == [.5, .5]


def test_a_score_of_gradients_accumulates_and_the_first_portion_waits_for_it():
  rule = progressive(
      jaxsparse.prune({'.*kernel': jaxsparse.channel(-1, sparsity=0.5)}),
      steps=2, every=2, score=jaxsparse.snip_momentum())
  params, grads = _params(0), [_params(i) for i in range(1, 4)]
  update = jax.jit(lambda g, s: rule.update(g, s, params)[1])
  state = rule.init(params)
  target = _sparse(state.inner.masks)
  assert all(mask.all() for mask in _sparse(state.masks))
  masks, total = [np.ones_like(t) for t in target], 0.
  for step, grad in enumerate(grads):
    state = update(grad, state)
    total = [t + 0.9 * np.abs(w * g) for t, w, g in zip(
        total or [0., 0.], _sparse(params), _sparse(grad))]
    if step != 1:
      masks = [_portion(*row, 2 if step == 0 else 1)
               for row in zip(masks, target, total)]
    chex.assert_trees_all_equal(_sparse(state.masks), masks)
  assert int(state.left) == 0


def test_nothing_is_selected_on_steps_where_nothing_goes():
  params = _params(0)
  rule = progressive(_gradual())
  jaxpr = jax.make_jaxpr(
      lambda s: rule.update(params, s, params))(rule.init(params)).jaxpr
  branches = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == 'cond']
  assert len(branches) == 2  # The rule's own, and that of a portion.
  assert all('while' in str(eqn) for eqn in branches)
  assert not any('while' in str(eqn) for eqn in jaxpr.eqns
                 if eqn not in branches)


@pytest.mark.parametrize('build, message', [
    (lambda: progressive(jaxsparse.block((4, 1))), 'must be a rule'),
    (lambda: progressive(_gradual(), steps=0), 'steps must be a whole'),
    (lambda: progressive(_gradual(), every=0.5), 'every must be a whole'),
    (lambda: progressive(_gradual(), score=jaxsparse.magnitude), 'a score'),
])
def test_arguments_of_the_wrong_kind_are_taught_errors(build, message):
  with pytest.raises(ValueError, match=message):
    build()
