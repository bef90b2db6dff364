"""Whole models against loops by hand, over layouts, frameworks and mistakes."""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import OneShotState

RNG = np.random.default_rng(0)
HALF = jaxsparse.unstructured(0.5)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def mlp(p, x):
  x = jax.nn.relu(x @ p['up'])
  return jnp.tanh(x @ p['mid'] + p['bias'][None]) @ p['down']


MLP = {'up': array(8, 16), 'mid': array(16, 16), 'bias': array(16),
       'down': array(16, 4)}
RULES = {'bias': None, '.*': HALF}
X = [array(40, 8), array(24, 8)]


def assert_trees(a, b, exactly=False):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if exactly or x.dtype == bool:
      np.testing.assert_array_equal(x, y)
    else:
      np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)


def test_inputs_come_through_what_is_pruned_already():
  got, masks = jaxsparse.one_shot(mlp, MLP, X, RULES)
  p, x = dict(MLP), np.concatenate(X)
  for name, before in (('up', lambda p: x),
                       ('mid', lambda p: jax.nn.relu(x @ p['up'])),
                       ('down', lambda p: jnp.tanh(jax.nn.relu(
                           x @ p['up']) @ p['mid'] + p['bias'][None]))):
    z = before(p)
    p[name], mask = calibration.sparsegpt(p[name], z.T @ z, HALF)
    np.testing.assert_array_equal(masks[name], mask)
  assert_trees(got, p)
  assert masks['bias'] is None and masks['up'].sum() == MLP['up'].size // 2


@pytest.mark.parametrize('method, prune', [
    ('magnitude', lambda w, h: jaxsparse.select(jnp.abs(w), HALF)),
    ('wanda', lambda w, h: calibration.wanda(w, jnp.diagonal(h), HALF)),
    ('sparsegpt', lambda w, h: calibration.sparsegpt(w, h, HALF)[1]),
    ('admm', lambda w, h: calibration.admm(w, h, HALF)[1]),
    ('alps', lambda w, h: calibration.alps(w, h, HALF)[1])])
def test_methods_by_name_are_those_of_matrices(method, prune):
  _, masks = jaxsparse.one_shot(
      mlp, MLP, X, {'up': HALF}, method)
  x = np.concatenate(X)
  np.testing.assert_array_equal(masks['up'], prune(MLP['up'], x.T @ x))
  assert masks['down'] is None


def test_a_function_is_a_method_and_refit_comes_after_it():
  def first_half(w, h, pattern, sparsity):
    assert h.shape == (8, 8) and sparsity == 0.5 and str(
        pattern) == 'unstructured()'
    mask = jnp.arange(len(w))[:, None] < len(w) // 2
    mask = jnp.broadcast_to(mask, w.shape)
    return jnp.where(mask, w, 0), mask
  rules = {'up': jaxsparse.unstructured()}
  plain, _ = jaxsparse.one_shot(mlp, MLP, X, rules, first_half, 0.5)
  got, masks = jaxsparse.one_shot(mlp, MLP, X, rules, first_half, 0.5,
                                  refit=True)
  np.testing.assert_array_equal(plain['up'][:4], MLP['up'][:4])
  x = np.concatenate(X)
  h = x.T @ x
  h += 0.01 * np.diagonal(h).mean() * np.eye(8, dtype=np.float32)
  np.testing.assert_allclose(got['up'], calibration.refit(
      MLP['up'], h, masks['up']), rtol=1e-4, atol=1e-5)
  assert not got['up'][4:].any() and masks['up'][:4].all()


# Layouts.


def block(p, x):
  h = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  q, k, v = (jnp.einsum('btd,dhk->bhtk', h, p[n]) for n in 'qkv')
  a = jax.nn.softmax(jnp.einsum('bhtk,bhsk->bhts', q, k))
  x = x + jnp.einsum('bhts,bhsk,hkd->btd', a, v, p['out'])
  return x + jax.nn.gelu(x @ p['up']) @ p['down']


def layers(n):
  one = lambda: {'q': array(8, 2, 4), 'k': array(8, 2, 4), 'v': array(8, 2, 4),
                 'out': array(2, 4, 8), 'up': array(8, 16),
                 'down': array(16, 8)}
  return [jax.tree.map(lambda w: w / 3, one()) for _ in range(n)]


ONES = layers(3)
STACKED = {'layers': jax.tree.map(lambda *ws: np.stack(ws), *ONES)}


def unrolled(p, x):
  for layer in p['layers']:
    x = block(layer, x)
  return x


def scanned(p, x):
  turn = jax.checkpoint(lambda x, layer: (block(layer, x), x.sum()))
  return lax.scan(turn, x, p['layers'])


def backwards(p, x):
  turn = lambda x, layer: (block(layer, x), x.sum())
  return lax.scan(turn, x, jax.tree.map(lambda w: w[::-1], p['layers']),
                  reverse=True)


@pytest.mark.parametrize('method, pattern', [
    ('wanda', jaxsparse.nm(2, 4)), ('sparsegpt', HALF)])
def test_layers_of_a_scan_are_those_of_a_loop(method, pattern):
  x = [array(2, 6, 8) for _ in range(2)]
  states = []
  expected, masks = jaxsparse.one_shot(
      jax.jit(unrolled), {'layers': ONES}, x, pattern, method)
  got = jaxsparse.one_shot(scanned, STACKED, x, pattern, method,
                           save=states.append)
  stacked = lambda tree: {'layers': jax.tree.map(
      lambda *ws: np.stack(ws), *tree['layers'])}
  assert_trees(got, (stacked(expected), stacked(masks)))
  assert len(states) == 3 * 4
  errors = states[-1].errors['layers/out']
  assert errors.shape == (3,) and bool(jnp.isnan(errors).all()) == (
      method == 'wanda')
  half = states[5]  # The second layer's queries, keys, values and outputs.
  np.testing.assert_array_equal(half.params['layers']['out'][2], ONES[2]['out'])
  assert half.masks['layers']['out'][2].all()
  assert not half.masks['layers']['out'][:2].all((1, 2, 3)).any()


def test_a_sparsity_for_each_layer():
  shares = np.array([.25, .5, .75])
  _, masks = jaxsparse.one_shot(
      scanned, STACKED, [array(2, 6, 8)],
      {'layers/up': jaxsparse.unstructured()}, 'sparsegpt',
      {'layers/up': shares})
  np.testing.assert_array_equal(
      masks['layers']['up'].sum((1, 2)), 128 * (1 - shares))


def test_a_pattern_keeps_its_own_sparsity():
  rules = {'up': jaxsparse.nm(1, 4), 'down': jaxsparse.unstructured(),
           'mid': HALF}
  _, masks = jaxsparse.one_shot(mlp, MLP, X, rules, 'wanda', 0.25)
  assert [int(masks[k].sum()) for k in ('up', 'down', 'mid')] == [32, 48, 128]
  _, masks = jaxsparse.one_shot(mlp, MLP, X, rules, 'wanda', {
      'down': .75, 'mid': .25})
  assert [int(masks[k].sum()) for k in ('up', 'down', 'mid')] == [32, 16, 192]


def test_inputs_of_several_axes_in_any_order():
  """Of a kernel [in a, out, in b]; groups along b are neighbours in no row."""
  w, x = array(3, 5, 8), array(64, 3, 8)
  fn = lambda p, x: jnp.einsum('tab,aob->to', x, p['w'])
  got, masks = jaxsparse.one_shot(
      fn, {'w': w}, [x], {'w': jaxsparse.nm(2, 4, axis=-1)}, 'sparsegpt')
  rows, m = x.reshape(64, 24), w.swapaxes(1, 2).reshape(24, 5)
  v, mask = calibration.sparsegpt(m, rows.T @ rows, jaxsparse.nm(2, 4))
  np.testing.assert_array_equal(
      masks['w'], mask.reshape(3, 8, 5).swapaxes(1, 2))
  np.testing.assert_allclose(
      got['w'], v.reshape(3, 8, 5).swapaxes(1, 2), rtol=1e-4, atol=1e-5)


def test_groups_along_a_major_axis():
  w, x = array(4, 3, 5), array(64, 4, 3)
  fn = lambda p, x: jnp.einsum('tab,abo->to', x, p['w'])
  _, masks = jaxsparse.one_shot(
      fn, {'w': w}, [x], {'w': jaxsparse.nm(1, 4, axis=0)}, 'sparsegpt')
  rows = x.swapaxes(1, 2).reshape(64, 12)
  m = w.swapaxes(0, 1).reshape(12, 5)
  _, mask = calibration.sparsegpt(m, rows.T @ rows, jaxsparse.nm(1, 4))
  np.testing.assert_array_equal(
      masks['w'], mask.reshape(3, 4, 5).swapaxes(0, 1))
  assert (masks['w'].sum(0) == 1).all()


@pytest.mark.parametrize('groups', [1, 2, 8])
def test_convolutions_in_groups(groups):
  w, x = array(3, 3, 8 // groups, 16), array(4, 9, 9, 8)

  def fn(p, x):
    return lax.conv_general_dilated(
        x, p['w'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups)
  got, masks = jaxsparse.one_shot(fn, {'w': w}, [x], {'w': HALF}, 'admm')
  patches = lax.conv_general_dilated_patches(
      x, (3, 3), (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  rows = patches.reshape(-1, groups, 8 // groups, 9).swapaxes(2, 3).reshape(
      -1, groups, 72 // groups)
  outs = 16 // groups
  for g in range(groups):
    mine = slice(g * outs, (g + 1) * outs)
    v, mask = calibration.admm(
        w[..., mine].reshape(-1, outs), rows[:, g].T @ rows[:, g], HALF)
    np.testing.assert_array_equal(
        masks['w'][..., mine].reshape(-1, outs), mask)
    np.testing.assert_allclose(
        got['w'][..., mine].reshape(-1, outs), v, rtol=1e-3, atol=1e-4)


def test_experts_compete_each_by_itself():
  w, x = array(3, 8, 4), array(3, 32, 8)
  fn = lambda p, x: jnp.einsum('etd,edo->eto', x, p['w'])
  got, masks = jaxsparse.one_shot(fn, {'w': w}, [x], {'w': HALF})
  for e in range(3):
    v, mask = calibration.sparsegpt(w[e], x[e].T @ x[e], HALF)
    np.testing.assert_array_equal(masks['w'][e], mask)
    np.testing.assert_allclose(got['w'][e], v, rtol=1e-4, atol=1e-5)


class Net(nn.Module):

  @nn.compact
  def __call__(self, x):
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(2, qkv_features=8)(h, h)
    return nn.Dense(4)(nn.gelu(nn.Dense(16)(x)).mean(1))


def test_a_pattern_is_for_all_kernels_of_any_framework():
  x = [array(4, 5, 8) for _ in range(3)]
  net = Net()
  params = net.init(jax.random.key(0), x[0])
  got, masks = jaxsparse.one_shot(net.apply, params, x, jaxsparse.nm(2, 4))
  attention = masks['params']['MultiHeadDotProductAttention_0']
  assert (attention['out']['kernel'].reshape(2, 4, 8).sum(1) == 2).all()
  assert (attention['query']['kernel'].reshape(2, 4, 8).sum(1) == 2).all()
  assert attention['out']['bias'] is None
  for w, mask in zip(jax.tree.leaves(got), jax.tree.leaves(
      masks, is_leaf=lambda m: m is None)):
    assert mask is None or not w[~mask].any()
  assert jnp.isfinite(net.apply(got, x[0])).all()


# Data.


def test_batches_of_other_sizes_add_up():
  whole = jaxsparse.one_shot(mlp, MLP, [np.concatenate(X)], RULES)
  assert_trees(jaxsparse.one_shot(mlp, MLP, X, RULES), whole)
  assert_trees(jaxsparse.one_shot(mlp, MLP, iter(X), RULES), whole)


def test_padding_does_not_count():
  def fn(p, x, y):
    return (x + y[..., None]) @ p['w']
  x, y = array(2, 5, 8), array(2, 5)
  y[:, 3:] = 100.
  weights = lambda x, y: y != 100.
  args = (fn, {'w': array(8, 4)})
  got = jaxsparse.one_shot(*args, [(x, y)], HALF, weights=weights)
  assert_trees(got, jaxsparse.one_shot(*args, [(x[:, :3], y[:, :3])], HALF))


def test_all_at_once_sees_the_dense_model():
  _, masks = jaxsparse.one_shot(mlp, MLP, X, RULES, 'wanda', sequential=False)
  z = jax.nn.relu(np.concatenate(X) @ MLP['up'])
  np.testing.assert_array_equal(
      masks['mid'], calibration.wanda(MLP['mid'], (z**2).sum(0), HALF))


def test_bfloat16_is_calibrated_in_float32():
  p = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), MLP)
  x = [jnp.asarray(x, jnp.bfloat16) for x in X]
  got, masks = jaxsparse.one_shot(mlp, p, x, RULES)
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(got))
  z = np.concatenate(x).astype(np.float32)
  _, mask = calibration.sparsegpt(p['up'], z.T @ z, HALF)
  np.testing.assert_array_equal(masks['up'], mask)


# Stages.


def test_it_goes_on_from_any_stage():
  states: list[OneShotState] = []
  whole = jaxsparse.one_shot(mlp, MLP, X, RULES, save=states.append)
  assert [state.done for state in states] == [1, 2, 3]
  for state in states:
    held = jax.tree.map(np.asarray, state)
    late = []
    got = jaxsparse.one_shot(mlp, MLP, X, RULES, state=held, save=late.append)
    assert_trees(got, whole, exactly=True)
    assert len(late) == 3 - state.done
  assert all(jnp.isfinite(x).all() for x in states[-1].errors.values())


def test_progress_wraps_the_stages():
  seen = []

  def progress(stages):
    assert len(stages) == 3
    for stage in stages:
      seen.append([leaf.path for leaf in stage.kernels])
      yield stage
  jaxsparse.one_shot(mlp, MLP, X, RULES, progress=progress)
  assert seen == [['up'], ['mid'], ['down']]


def test_a_kernel_that_is_read_again_has_the_sum_of_all_its_inputs():
  w = array(8, 8)
  fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p['w']) @ p['w'])
  _, masks = jaxsparse.one_shot(fn, {'w': w}, X, {'w': HALF}, 'wanda')
  x = np.concatenate(X)
  squares = (x**2).sum(0) + (jnp.tanh(x @ w)**2).sum(0)
  np.testing.assert_array_equal(masks['w'], calibration.wanda(w, squares, HALF))


def test_the_params_that_were_given_are_as_they_were():
  params = jax.tree.map(jnp.asarray, MLP)
  jaxsparse.one_shot(mlp, params, X, RULES)
  assert_trees(params, jax.tree.map(jnp.asarray, MLP), exactly=True)


# Mistakes.


@pytest.mark.parametrize('error, arguments', [
    ('no batches', {'batches': []}),
    ('cannot be traced', {'batches': [array(3, 7)]}),
    ('matches no parameter', {'patterns': {'upp': HALF}}),
    ('up: a kernel with axes .0,. summed over.*span others of its axes', {
        'patterns': {'up': jaxsparse.channel(-2)}}),
    ('span others of its axes', {'patterns': {'up': jaxsparse.block((2, 2))}}),
    ('span others of its axes', {'patterns': {'up': jaxsparse.nm(
        2, 4, axis=-1)}}),
    ('map to a pattern', {'patterns': {'up': 0.5}}),
    ('not summed over with data', {'patterns': {'bias': HALF}}),
    ('up: group of nm.1, 7. needs axis', {'patterns': {'up': jaxsparse.nm(
        1, 7)}}),
    ('has no sparsity of its own', {'patterns': jaxsparse.unstructured()}),
    ('must lie in', {'patterns': jaxsparse.unstructured(), 'sparsity': 50}),
    ('which no pattern is for', {'sparsity': {'bias': .5}}),
    ('method is one of', {'method': 'sparse_gpt'}),
    ('up: its inputs are NaN', {'batches': [np.full_like(X[0], np.nan)]}),
    ('up has weights that are NaN', {'params': {
        **MLP, 'up': np.full_like(MLP['up'], np.nan)}, 'method': 'magnitude'}),
    ('patterns must be a pattern.*0.5', {'patterns': 0.5}),
    ('weights must be a function of inputs', {'weights': np.ones(3)}),
    ('progress must be a function.*True', {'progress': True}),
    ('No parameter has a pattern', {'patterns': {'.*': None}}),
    (r'up: sparsity has the shape .2,.', {'sparsity': {'up': [.5, .2]}}),
    ('inputs of a kernel the leading axes', {
        'weights': lambda x: np.ones((3, 3), np.float32)}),
    ('up: h is not positive definite', {
        'batches': [X[0][:2]], 'method': functools.partial(
            calibration.sparsegpt, damping=0.)}),
])
def test_mistakes_are_told(error, arguments):
  given = {'params': MLP, 'batches': X, 'patterns': RULES} | arguments
  with pytest.raises(ValueError, match=error):
    jaxsparse.one_shot(mlp, **given)


def test_scales_along_inputs_are_not_passed_over():
  """`x @ (s[:, None] * w)` reads `x * s`, and not `x`."""
  params = {'w': array(8, 4), 's': array(8), 't': array(4), 'v': array(8, 4)}
  along = lambda p, x: x @ (p['w'] * p['s'][:, None]) + x @ p['v']
  with pytest.raises(ValueError, match='w are not seen.*scaled along its inp'):
    jaxsparse.one_shot(along, params, X, {'w': HALF})
  with pytest.warns(UserWarning, match='w are not seen.*They stay dense'):
    _, masks = jaxsparse.one_shot(along, params, X, HALF)
  assert masks['v'].sum() == 16
  across = lambda p, x: x @ (p['w'] * p['t'][None])
  _, masks = jaxsparse.one_shot(across, params, X, {'w': HALF}, 'wanda')
  x = np.concatenate(X)
  np.testing.assert_array_equal(
      masks['w'], calibration.wanda(params['w'], (x**2).sum(0), HALF))


def test_depthwise_kernels_in_the_axes_of_keras_are_told():
  def fn(p, x):
    y = lax.conv_general_dilated(
        x, p['w'].reshape(3, 3, 1, 8), (1, 1), 'SAME', feature_group_count=8,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return y.mean((1, 2)) @ p['v']
  params, x = {'w': array(3, 3, 8, 1), 'v': array(8, 4)}, array(2, 5, 5, 8)
  with pytest.raises(ValueError, match='w: a kernel.*parts of an axis'):
    jaxsparse.one_shot(fn, params, [x], {'w': HALF})
  with pytest.warns(UserWarning, match='w stays dense'):
    _, masks = jaxsparse.one_shot(fn, params, [x], HALF)
  assert masks['w'] is None and masks['v'].sum() == 16


def test_a_state_is_a_dict_where_orbax_has_no_target():
  states = []
  whole = jaxsparse.one_shot(mlp, MLP, X, RULES, save=states.append)
  got = jaxsparse.one_shot(mlp, MLP, X, RULES, state=states[1]._asdict())
  assert_trees(got, whole, exactly=True)


def test_nans_of_nobody_stop_no_debugger():
  with jax.debug_nans(True):
    for method in ('magnitude', 'wanda', 'sparsegpt', 'admm'):
      jaxsparse.one_shot(mlp, MLP, X, RULES, method)


def test_it_is_called_outside_of_jit():
  with pytest.raises(ValueError, match='outside of jax.jit'):
    jax.jit(lambda p: jaxsparse.one_shot(mlp, p, X, RULES))(MLP)


def test_what_is_not_seen_is_an_error():
  fn = lambda p, x: x @ (p['a'] @ p['b']) @ p['c']
  params = {'a': array(8, 8), 'b': array(8, 8), 'c': array(8, 8)}
  with pytest.raises(ValueError, match="not summed over|not seen"):
    jaxsparse.one_shot(fn, params, X, {'a': HALF, 'c': HALF})


def test_experts_that_met_nothing_are_told():
  def fn(p, x):
    return lax.ragged_dot(x, p['w'], jnp.array([len(x), 0], jnp.int32))
  with pytest.warns(UserWarning, match='1 of its 2 matrices'):
    jaxsparse.one_shot(fn, {'w': array(2, 8, 4)}, X, {'w': HALF}, 'wanda')
