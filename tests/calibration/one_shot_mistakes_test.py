"""What `one_shot` cannot do is told, with what to write."""

import functools
import re
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import _stages
from jaxsparse.calibration import _windows
from tests._lib.calibration import array
from tests._lib.calibration import HALF
from tests._lib.calibration import MLP
from tests._lib.calibration import mlp
from tests._lib.calibration import X

RULES = {'bias': None, '.*': HALF}


@pytest.mark.parametrize('error, arguments', [
    ('no batches', {'batches': []}),
    ('cannot be traced', {'batches': [array(3, 7)]}),
    ('matches no parameter', {'patterns': {'upp': HALF}}),
    ('up: a kernel with contraction axes .0,..*span others of the axes', {
        'patterns': {'up': jaxsparse.channel(-2)}}),
    ('span others of the axes', {'patterns': {'up': jaxsparse.block((2, 2))}}),
    ('span others of the axes', {'patterns': {'up': jaxsparse.nm(
        2, 4, axis=-1)}}),
    ('map to a pattern', {'patterns': {'up': 0.5}}),
    ('not contracted with data', {'patterns': {'bias': HALF}}),
    ('up: group of nm.1, 7. needs axis', {'patterns': {'up': jaxsparse.nm(
        1, 7)}}),
    ('has no sparsity of its own', {'patterns': jaxsparse.unstructured()}),
    ('fraction pruned, in', {
        'patterns': jaxsparse.unstructured(), 'sparsity': 50}),
    ('must map paths that have a pattern', {'sparsity': {'bias': .5}}),
    ('method must be one of', {'method': 'sparse_gpt'}),
    ('the inputs of this kernel', {'batches': [np.full_like(X[0], np.nan)]}),
    ('up must have finite weights', {'params': {
        **MLP, 'up': np.full_like(MLP['up'], np.nan)}, 'method': 'magnitude'}),
    ('up must have finite weights', {'params': {
        **MLP, 'up': np.full_like(MLP['up'], np.inf)}, 'method': 'magnitude'}),
    ('patterns must be a pattern.*0.5', {'patterns': 0.5}),
    ('weights must return an array.*None', {'weights': lambda x: None}),
    ('weights must be a function of inputs', {'weights': np.ones(3)}),
    ('progress must be a function.*True', {'progress': True}),
    ('at least one parameter', {'patterns': {'.*': None}}),
    (r'up: sparsity must be.*the shape .2,.', {'sparsity': {'up': [.5, .2]}}),
    ('leading axes of the inputs of a kernel', {
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
  with pytest.raises(ValueError, match='w cannot be found.*scaled along'):
    jaxsparse.one_shot(along, params, X, {'w': HALF})
  with pytest.warns(UserWarning, match='w cannot be found.*They stay dense'):
    _, masks = jaxsparse.one_shot(along, params, X, HALF)
  assert masks['v'].sum() == 16
  across = lambda p, x: x @ (p['w'] * p['t'][None])
  _, masks = jaxsparse.one_shot(across, params, X, {'w': HALF}, 'wanda')
  x = np.concatenate(X)
  np.testing.assert_array_equal(
      masks['w'], calibration.wanda(params['w'], (x**2).sum(0), HALF))


@pytest.mark.parametrize('sequential', [True, False])
def test_norms_of_weights_that_scale_along_inputs_are_not_passed_over(
    sequential):
  """`w / |w|` of each row reads `x / |w|`; of each column it reads `x`."""
  def prune(axis):
    fn = lambda p, x: x @ (p['w'] / jnp.sqrt(
        (p['w']**2).sum(axis, keepdims=True)))
    return jaxsparse.one_shot(fn, {'w': w}, X, {'w': HALF}, 'wanda',
                              sequential=sequential)[1]['w']
  w, x = array(8, 4), np.concatenate(X)
  with pytest.raises(ValueError, match='cannot be found.*scaled along'):
    prune(axis=1)
  np.testing.assert_array_equal(
      prune(axis=0), calibration.wanda(w, (x**2).sum(0), HALF))


def test_a_pattern_for_all_says_what_it_leaves_dense():
  def fn(p, x):
    return p['table'][x] @ p['w'] @ p['odd'] @ p['table'].T
  params = {'table': array(5, 8), 'w': array(8, 6), 'odd': array(6, 8)}
  with pytest.warns(UserWarning) as told:
    _, masks = jaxsparse.one_shot(
        fn, params, [np.arange(5)], jaxsparse.nm(2, 4), 'magnitude')
  assert masks['w'].sum() == 24 and masks['odd'] is masks['table'] is None
  first, second = sorted(str(w.message) for w in told)
  assert first.startswith('odd stays dense: group of nm(2, 4) needs axis')
  assert second == 'table stays dense: also looked up'


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
  with pytest.raises(ValueError, match='not contracted|cannot be found'):
    jaxsparse.one_shot(fn, params, X, {'a': HALF, 'c': HALF})


@pytest.mark.parametrize('sparsity', [
    50, jnp.float32(50), np.array(-1.), {'a': jnp.float32(1.5)}])
def test_a_sparsity_that_is_no_fraction_is_an_error_also_as_an_array(sparsity):
  with pytest.raises(ValueError, match=r'the fraction pruned, in \[0, 1\]'):
    jaxsparse.one_shot(lambda p, x: x @ p['a'], {'a': array(8, 8)}, X,
                       jaxsparse.unstructured(), 'wanda', sparsity)


def test_a_named_tuple_is_one_argument():
  class Batch(NamedTuple):
    image: jax.Array
    label: int
  x, params = array(9, 8), {'a': array(8, 8)}
  prune = lambda fn, batch: jaxsparse.one_shot(fn, params, [batch], HALF)[0]
  np.testing.assert_array_equal(
      prune(lambda p, batch: batch.image @ p['a'], Batch(x, 1))['a'],
      prune(lambda p, image, label: image @ p['a'], (x, 1))['a'])


@pytest.mark.parametrize('sequential', [False, True])
def test_of_kernels_that_stay_dense_nothing_is_measured(sequential):
  def fn(p, x):
    h = lax.conv_general_dilated(x, p['stem'], (1,), 'SAME',
                                 dimension_numbers=('NWC', 'WIO', 'NWC'))
    return jax.nn.relu(h) @ p['up']
  params, x = {'stem': array(3, 8, 8), 'up': array(8, 4)}, array(2, 5, 8)
  _, masks = jaxsparse.one_shot(  # Weights are not for convolutions.
      fn, params, [x], {'up': jaxsparse.nm(2, 4)}, sequential=sequential,
      weights=lambda x: jnp.ones(x.shape[:2]))
  assert masks['up'].mean() == .5 and masks['stem'] is None
  stage, = _stages.Data(fn, params, [(x,)], None, 'moment').in_turn(['up'])
  assert [leaf.path for leaf in stage.look(params)] == ['up']


def test_scales_of_all_layers_before_a_loop_are_not_passed_over():
  scales = array(8)
  fn = lambda p, x: lax.scan(
      lambda x, w: (x @ w, None), x, p['w'] * scales[None, :, None])[0]
  for sequential in (True, False):
    with pytest.raises(ValueError, match='cannot be found.*scaled along'):
      jaxsparse.one_shot(fn, {'w': array(3, 8, 8)}, X, {'w': HALF}, 'wanda',
                         sequential=sequential)


def test_experts_that_met_nothing_are_told():
  def fn(p, x):
    return lax.ragged_dot(x, p['w'], jnp.array([len(x), 0], jnp.int32))
  with pytest.warns(UserWarning, match='1 of its 2 matrices'):
    jaxsparse.one_shot(fn, {'w': array(2, 8, 4)}, X, {'w': HALF}, 'wanda')


@pytest.mark.parametrize('looped', [False, True])
def test_constants_that_scale_along_inputs_are_not_passed_over(looped):
  along, across = array(8), array(8)
  w = array(3, 8, 8) if looped else array(8, 8)

  def fn(scale):
    one = lambda x, w: (x @ (w * scale(w)), None)
    return lambda p, x: lax.scan(one, x, p['w'])[0] if looped else one(
        x, p['w'])[0]
  for sequential in (True, False):
    with pytest.raises(ValueError, match='cannot be found.*scaled along'):
      jaxsparse.one_shot(fn(lambda w: along[:, None]), {'w': w}, X, {'w': HALF},
                         'wanda', sequential=sequential)
    # What is the same for all inputs of an output does not matter.
    for scale in (lambda w: across[None], lambda w: 0.5 * jnp.ones((8, 1))):
      jaxsparse.one_shot(fn(scale), {'w': w}, X, {'w': HALF}, 'wanda',
                         sequential=sequential)


def _normed(averages, before):
  """A model with a norm between kernels, and one `before` them."""
  rng = np.random.default_rng(0)
  params = {name: {'kernel': rng.normal(size=(8, 8)).astype(np.float32)}
            for name in ('one', 'two')}
  ones = np.ones(8, np.float32)
  params |= {name: {'mean': ones, 'var': ones} for name in ('norm', 'first')}

  def norm(averages, x):
    if averages is None:
      averages = {'mean': x.mean(0), 'var': x.var(0)}
    mean, var = averages['mean'][None], averages['var'][None]
    return (x - mean) * jax.lax.rsqrt(var + 1e-5)

  def apply(p, x):
    x = norm(p['first'] if before else None, x)
    x = norm(p['norm'] if averages else None, x @ p['one']['kernel'])
    return jax.nn.relu(x) @ p['two']['kernel']
  return apply, params, rng.normal(size=(64, 8)).astype(np.float32)


_BOTH, _ONE, _TWO = ({f'{name}/kernel': HALF, '.*': None} for name in (
    '(one|two)', 'one', 'two'))


def test_averages_of_the_dense_weights_behind_pruned_ones_are_told():
  apply, params, x = _normed(averages=True, before=False)
  with pytest.warns(UserWarning, match=(
      'running averages, norm/mean, norm/var.*train=True.*sequential=False')
                    ) as told:
    jaxsparse.one_shot(apply, params, [x], _BOTH, 'wanda')
  assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize('averages, before, options', [
    (False, True, {'patterns': _BOTH}),  # It normalises what nothing changes.
    (True, False, {'patterns': _ONE}),   # No kernel comes behind.
    (True, True, {'patterns': _TWO}),    # Nothing before it is pruned.
    (True, False, {'patterns': _BOTH, 'sequential': False}),
    (True, False, {'patterns': _BOTH, 'method': 'magnitude'}),
])
def test_averages_of_which_no_choice_depends_are_not(averages, before, options):
  apply, params, x = _normed(averages, before)
  _, masks = jaxsparse.one_shot(
      apply, params, [x], **{'method': 'wanda', **options})
  assert sum(mask.mean() for mask in jax.tree.leaves(masks)) > 0


@pytest.mark.parametrize('name, trained', [
    ('batch_stats/bn/mean', False), ('layers/0/bn/running_var', False),
    ('bn/moving_variance', False), ('net/bn/~/mean_ema/average', False),
    ('mean/kernel', True), ('meaning', True), ('var_kernel', True)])
def test_what_is_a_running_statistic(name, trained):
  assert bool(re.fullmatch(_stages.STATISTICS, name)) is not trained
  assert bool(re.fullmatch(_windows._NO_STATISTICS, name)) is trained
