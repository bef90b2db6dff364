"""Channels that die, against a greedy numpy reading of the paper."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import transform
from jaxsparse import units
from tests._lib import exchanges
from tests._lib import method_table

pytestmark = pytest.mark.slow

Member, Tie = jaxsparse.units.Member, jaxsparse.units.Tie
_SHAPES = {'x': (6, 12), 'y': (12, 8), 'z': (8, 4)}
_TIES = [
    Tie(12, (Member('x/kernel', 1, role='makes'),
             Member('x/bias', 0, role='beside'),
             Member('y/kernel', 0, role='reads'))),
    Tie(8, (Member('y/kernel', 1, role='makes'),
            Member('z/kernel', 0, role='reads'))),
    Tie(4, (Member('z/kernel', 1, role='makes'),), fixed='an output')]
_SIZES = (12, 8)
_T, _EVERY, _PRUNE, _END = 60, 4, 3, 48
_SPARSITY, _DIES, _SURPLUS, _FLOOR = .7, .5, .1, .5
_TOTAL = round((1 - _SPARSITY) * (72 + 96 + 32))


def _params():
  # Units of the second layer are the smaller ones, so floors are reached.
  params = exchanges.make_params('xyz', _SHAPES)
  params['y']['kernel'] *= 0.1
  return params


def _grads(params, step):
  grads = exchanges.make_grads(params, step)
  grads['y']['kernel'] *= 0.1
  return grads


def _wrapped():
  return method_table.wrap(optax.sgd(exchanges.RATE), methods.chase(
      exchanges.FREE, _SPARSITY, _T, ties=_TIES, channel_sparsity=_DIES,
      floor=_FLOOR, surplus=_SURPLUS, every=_EVERY, prune_every=_PRUNE))


@functools.cache
def _history():
  return exchanges.run(_wrapped(), _T, params=_params(), grads=_grads)


def _alive(step):
  return np.split(transform.state_of(step.state).rule.alive, [12])


def _mean_magnitudes(weights):
  cut = {k: np.abs(weights[f'{k}/kernel'].reshape(_SHAPES[k])) for k in 'xy'}
  return [cut['x'].mean(0), cut['y'].mean(0)]


def _greedy(scores, alive, dead, fewest):
  """Kills the lowest of all units, skipping ties that are at their floor."""
  alive = [a.copy() for a in alive]
  order = sorted(
      ((s, -i, -u) for i, (x, a) in enumerate(zip(scores, alive))
       for u, s in enumerate(x) if a[u]))
  for _, i, u in order:
    if sum((~a).sum() for a in alive) == dead:
      break
    if alive[-i].sum() > fewest[-i]:
      alive[-i][-u] = False
  return alive


def _allowed(alive):
  one, two = alive
  return {'x/kernel': np.tile(one, (6, 1)).ravel(),
          'y/kernel': np.outer(one, two).ravel(),
          'z/kernel': np.repeat(two[:, None], 4, 1).ravel()}


def _dies(t):
  return t <= _END and t % _PRUNE == 0


def _moves(t):
  return t <= _END and t % _EVERY == 0


def test_as_many_are_dead_as_the_cubic_schedule_says():
  expected = 0
  for t, step in enumerate(_history()):
    if _dies(t):
      progress = 1 - (1 - t / _END)**3
      expected = round(_DIES * progress * 20)
    assert sum((~a).sum() for a in _alive(step)) == expected, t
  assert expected == 10


def test_the_lowest_mean_magnitudes_of_all_layers_die_down_to_a_floor():
  history, fewest = _history(), [int(n * (1 - _DIES) * _FLOOR) for n in _SIZES]
  for t, (step, new) in enumerate(zip(history, history[1:]), start=1):
    alive = _alive(step)
    if _dies(t):
      alive = _greedy(_mean_magnitudes(step.weights), alive,
                      sum((~a).sum() for a in _alive(new)), fewest)
    for a, b in zip(alive, _alive(new)):
      np.testing.assert_array_equal(a, b, err_msg=str(t))
  assert alive[1].sum() == fewest[1]  # Without a floor more would have died.


def test_the_dead_stay_dead_and_nothing_grows_in_their_slices():
  history = _history()
  for step, new in zip(history, history[1:]):
    for old, now in zip(_alive(step), _alive(new)):
      assert not (now & ~old).any()
  for step in history:
    for path, where in _allowed(_alive(step)).items():
      assert not step.masks[path][~where].any()
      assert not step.weights[path][~where].any()


def test_the_total_is_held_while_channels_die():
  bound = None
  for t, step in enumerate(_history()):
    if t == 0 or _dies(t) or _moves(t):
      share = _SURPLUS * exchanges.cosine(t, _END)
      bound = _TOTAL + sum(int(share * n) for n in (72, 96, 32))
    assert sum(m.sum() for m in step.masks.values()) == bound, t
  assert bound == _TOTAL


def test_survivors_compete_by_magnitude_and_newcomers_by_gradient():
  history = _history()
  for t, (step, new) in enumerate(zip(history, history[1:]), start=1):
    if not _dies(t) and not _moves(t):
      continue
    share = _SURPLUS * exchanges.cosine(t, _END)
    bound = _TOTAL + sum(int(share * n) for n in (72, 96, 32))

    def exchanged(mask, w, g, where, bound=bound):
      stay = exchanges.top(np.abs(w), mask & where, _TOTAL)
      return stay | exchanges.top(
          np.abs(g), where & ~stay, bound - stay.sum())
    expected = exchanges.together(
        exchanged, step.masks, step.weights, step.grads, _allowed(_alive(new)))
    for path, mask in expected.items():
      np.testing.assert_array_equal(new.masks[path], mask, err_msg=str(t))


def test_the_network_without_the_dead_is_the_same_function():
  last = _history()[-1]
  params = jax.tree.map(jnp.asarray, last.params)
  x = jax.random.normal(jax.random.key(3), (5, 6))

  def apply(params, x):
    for name in 'xyz':
      x = x @ params[name]['kernel'] + params[name]['bias'][None]
      x = jax.nn.relu(x) if name == 'x' else x
    return x
  # The bias of the second layer belongs to its units, too.
  ties = [_TIES[0], Tie(8, (*_TIES[1].members,
                            Member('y/bias', 0, role='beside')))]
  small = jaxsparse.slim(params, ties, jaxsparse.alive(params, ties))
  assert small['x']['kernel'].shape[1] <= _alive(last)[0].sum()
  assert small['z']['kernel'].shape[0] <= _alive(last)[1].sum()
  np.testing.assert_allclose(apply(small, x), apply(params, x), atol=1e-5)


_SPECS = {(6, 12): P('y', 'x'), (12, 8): P('x', 'y'), (8, 4): P('y', 'x')}


def test_in_parts_on_a_mesh_the_same_channels_die():
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)
  multi, seen = optax.MultiSteps(_wrapped(), 2), []

  def update(*args, **kwargs):
    with jax.numpy_dtype_promotion('standard'):
      return multi.update(*args, **kwargs)

  def place(params, state):
    if not seen:
      params, state = exchanges.lay_out((params, state), mesh, _SPECS)
    seen.append(exchanges.lie_as((params, state), mesh, _SPECS))
    return params, state

  with jax.set_mesh(mesh):
    history = exchanges.run(
        optax.GradientTransformation(multi.init, update), 18, place=place,
        params=_params(), grads=lambda w, i: _grads(w, i // 2))
  for step, whole in zip(history[::2], _history()):
    jax.tree.map(np.testing.assert_array_equal, step.masks, whole.masks)
  assert all(seen), seen


def _grow(**options):
  return rules.prune_and_grow(
      exchanges.FREE, grow=jaxsparse.gradient(), fraction=0.,
      drop_scope=scopes.all_layers, grow_scope=scopes.all_layers,
      **{'sparsity': .5, 'when': schedules.every(1000), **options})


def _drop():
  """A rule that only ever drops what is not allowed, which compiles fast."""
  def init(params):
    masks = jax.tree.map(lambda w: jnp.ones_like(w, bool), params)
    return rules.RuleState(jnp.zeros((), jnp.int32), masks, ())

  def update(grads, state, params=None, *, allowed, **extra_args):
    del grads, params, extra_args
    masks = jax.tree.map(jnp.logical_and, state.masks, allowed())
    return masks, rules.RuleState(state.count + 1, masks, ())
  return rules.Rule(init, update)


def _prune(ties, *, sparsity=.5, schedule=None, when=None, rule=None,
           **options):
  return units.prune_units(
      ties, importance=units.mean_magnitude(), sparsity=sparsity,
      scope='global', normalize=False, schedule=schedule, when=when,
      within=rule or _drop(), **options)


def _dead(rule, params, steps=1, grads=None):
  """How many units are dead after each step of params that stand still."""
  state, dead = rule.init(params), []
  update = jax.jit(lambda s: rule.update(grads or params, s, params)[1])
  for _ in range(steps):
    state = update(state)
    dead.append(int((~state.alive).sum()))
  return state, dead


def _pair(*sizes, fill=1.):
  """A layer that makes units and one that reads them."""
  return {'x': {'kernel': jnp.full((4, sizes[0]), fill)},
          'z': {'kernel': jnp.full((sizes[0], 4), fill)}}


def _tie(size, *more):
  return Tie(size, (Member('x/kernel', 1, role='makes'),
                    Member('z/kernel', 0, role='reads'), *more))


def test_the_end_of_the_schedule_counts_whatever_the_phase():
  rule = _prune([_tie(8)], schedule=schedules.cubic(0, 7),
                when=schedules.every(5))
  _, dead = _dead(rule, _pair(8), steps=9)
  assert dead == [0] * 4 + [round(4 * (1 - (2 / 7)**3))] * 2 + [4] * 3


def test_the_number_of_dead_is_rounded_once():
  rule = _prune([_tie(9)], schedule=lambda step: jnp.float32(.8))
  assert _dead(rule, _pair(9))[1] == [round(.5 * .8 * 9)]


def test_the_floor_is_not_a_rounding_error_below():
  # 120 of 400 die, of the first tie as many as may.
  params = {**_pair(100), 'u': {'kernel': jnp.full((4, 300), 9.)},
            'v': {'kernel': jnp.full((300, 4), 9.)}}
  other = Tie(300, (Member('u/kernel', 1, role='makes'),
                    Member('v/kernel', 0, role='reads')))
  state, _ = _dead(_prune([_tie(100), other], sparsity=.3, floor=.1), params)
  assert state.alive[:100].sum() == 7


def test_pruned_weights_count_in_the_mean():
  params = _pair(2)
  params['x']['kernel'] = jnp.array([[3., 1.], [0., 1.], [0., 1.], [0., 1.]])
  rule = _prune([_tie(2)])
  state = rule.init(params)
  masks = {**state.masks, 'x': {'kernel': params['x']['kernel'] > 0}}
  state = state._replace(inner=state.inner._replace(masks=masks))
  state = jax.jit(lambda s: rule.update(params, s, params)[1])(state)
  assert state.alive.tolist() == [False, True]


def test_empty_units_die_first_and_ties_go_to_the_lower_index():
  params = _pair(6)
  params['x']['kernel'] = params['x']['kernel'].at[:, 2].set(0.)
  state, _ = _dead(_prune([_tie(6)]), params)
  assert state.alive.tolist() == [True, True, False, True, False, False]


def test_every_tie_keeps_a_unit():
  state, _ = _dead(_prune([_tie(6)], sparsity=1.), _pair(6))
  assert state.alive.tolist() == [True] + [False] * 5


def test_nobody_comes_back_for_a_unit_with_a_nan():
  rule = _prune([_tie(4)], when=schedules.every(1))
  params = _pair(4)
  state, _ = _dead(rule, params)
  assert state.alive.tolist() == [True, True, False, False]
  broken = {**params, 'x': {
      'kernel': params['x']['kernel'].at[0, 0].set(jnp.nan)}}
  state = jax.jit(lambda s: rule.update(params, s, broken)[1])(state)
  assert not state.alive[2:].any()


def test_what_living_units_have_no_room_for_is_not_grown():
  rule = _prune([_tie(8)], rule=_grow(sparsity=.1))
  state, _ = _dead(rule, _pair(8))
  assert sum(m.sum() for m in jax.tree.leaves(state.masks)) == 32


def test_blocks_do_not_grow_into_dead_slices():
  rule = _prune([_tie(8)], rule=rules.prune_and_grow(
      {'.*kernel': jaxsparse.block((2, 2))}, sparsity=.25,
      grow=jaxsparse.gradient(), when=schedules.every(1)))
  params = _pair(8)
  params['x']['kernel'] *= jnp.array([[1., 2.] * 4])
  try:
    state, _ = _dead(rule, params)
  except ValueError:
    return  # To refuse blocks is as good.
  assert not state.masks['x']['kernel'][:, ~np.asarray(state.alive)].any()


def _skip():
  """Units that two kernels make, and a tie that no one else does."""
  kernel = lambda *shape: {'kernel': jnp.ones(shape)}
  params = {'x': kernel(4, 6), 'u': kernel(4, 6), 'z': kernel(6, 4)}
  return params, _tie(6, Member('u/kernel', 1, role='makes'))


def test_units_of_skip_paths_die_if_told():
  params, tie = _skip()
  assert _dead(_prune([tie], prune_skip=True), params)[1] == [3]
  with pytest.raises(ValueError, match='a skip path'):
    _prune([tie]).init(params)


@pytest.mark.parametrize('tie, message', [
    (Tie(6, (Member('x/kernel', 1), Member('z/kernel', 0))), 'Member.role'),
    (Tie(6, (Member('x/kernel', 1, role='makes'),)), 'nothing reads'),
    (Tie(6, (Member('z/kernel', 0, role='reads'),)), 'nothing makes'),
    (Tie(6, (*_tie(6).members, Member('h/weight', 0, role='reads'))),
     'h/weight is dense'),
    (Tie(6, _tie(6).members, fixed='an output'), 'an output'),
    (Tie(6, _tie(6).members, kept='a mean'), 'a mean'),
], ids=['roles', 'reader', 'maker', 'dense', 'fixed', 'kept'])
def test_ties_whose_units_cannot_die_are_taught_errors(tie, message):
  params = {**_pair(6), 'h': {'weight': jnp.ones((6, 2))}}
  rule = _grow()
  with pytest.raises(ValueError, match=message):
    _prune([tie], rule=rule).init(params)


@pytest.mark.parametrize('options', [
    dict(sparsity=1.5), dict(sparsity=-.1), dict(floor=2.)])
def test_shares_of_channels_out_of_range_are_taught_errors(options):
  with pytest.raises(ValueError, match=r'\[0, 1\].*Write'):
    _prune([_tie(6)], **options)


def _conv(x, kernel):
  return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _network(params, x):
  """Two convolutions with batch norm in a residual block, and a head."""
  def norm(x, p):
    return (x - p['mean']) * jax.lax.rsqrt(p['var'] + 1e-5) * p['scale']
  with jax.numpy_rank_promotion('allow'):
    x = jax.nn.relu(norm(_conv(x, params['stem']['kernel']), params['n0']))
    y = jax.nn.relu(norm(_conv(x, params['one']['kernel']), params['n1']))
    x = x + norm(_conv(y, params['two']['kernel']), params['n2'])
    return x.reshape(x.shape[0], -1) @ params['head']['weight']


def _network_params():
  keys = iter(jax.random.split(jax.random.key(0), 9))
  kernel = lambda *shape: {'kernel': jax.random.normal(next(keys), shape)}
  norm = lambda n: {'mean': jnp.zeros(n), 'var': jnp.ones(n),
                    'scale': jnp.ones(n)}
  return {'stem': kernel(3, 3, 2, 4), 'n0': norm(4),
          'one': kernel(3, 3, 4, 6), 'n1': norm(6),
          'two': kernel(3, 3, 6, 4), 'n2': norm(4),
          'head': {'weight': jax.random.normal(next(keys), (64, 3))}}


def test_inferred_ties_of_a_residual_block_let_its_inner_channels_die():
  params, x = _network_params(), jnp.ones((1, 4, 4, 2))
  ties = jaxsparse.infer_ties(_network, params, x)
  tie, = ties.of('one/kernel', 3)
  roles = {m.path: m.role for m in tie.members}
  assert roles == {'one/kernel': 'makes', 'two/kernel': 'reads',
                   'n1/mean': 'beside', 'n1/var': 'beside',
                   'n1/scale': 'beside'}
  state, dead = _dead(_prune(ties), params)
  assert dead == [3] and state.alive.size == 6
  alive = np.asarray(state.alive)
  w = np.abs(params['one']['kernel']).mean((0, 1, 2))
  np.testing.assert_array_equal(
      alive, exchanges.top(w, np.ones(6, bool), 3))
  masks = state.masks
  assert not masks['one']['kernel'][..., ~alive].any()
  assert not masks['two']['kernel'][:, :, ~alive].any()
  assert masks['one']['kernel'][..., alive].all()
