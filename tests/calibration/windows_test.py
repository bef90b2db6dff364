"""Windows come nearer to the dense model, and pruned weights stay zero."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse.calibration import _windows
from jaxsparse.graph import segments

RNG = np.random.default_rng(0)
SGD = optax.sgd(0.3)


def array(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def block(x, p):
  h = jax.nn.gelu(x @ p['up'] + p['bias'][None])
  return x + h @ p['down']


def unrolled(p, x):
  x = p['table'][x]
  for layer in p['layers']:
    x = block(x, layer)
  return x @ p['table'].T


def scanned(p, x):
  x = lax.scan(lambda x, p: (block(x, p), ()), p['table'][x], p['layers'])[0]
  return x @ p['table'].T


LAYERS = [{'up': array(8, 16) / 2, 'bias': array(16) / 2,
           'down': array(16, 8) / 3} for _ in range(3)]
LOOP = {'layers': LAYERS, 'table': array(11, 8)}
SCAN = {'layers': jax.tree.map(lambda *ws: np.stack(ws), *LAYERS),
        'table': LOOP['table']}
X = [RNG.integers(0, 11, (40,)), RNG.integers(0, 11, (30,))]
RULES = {'.*(up|down)': jaxsparse.unstructured(.6)}


def pruned(fn, params):
  return jaxsparse.one_shot(fn, params, X, RULES, 'magnitude')


def trained(fn, params, **more):
  given, masks = pruned(fn, params)
  states = []
  got = calibration.reconstruct(
      fn, given, masks, X, dense=params,
      **{'steps': 20, 'optimizer': SGD, 'save': states.append, **more})
  return given, masks, got, states


def test_it_comes_nearer_and_pruned_weights_stay_zero():
  given, masks, got, states = trained(unrolled, LOOP)
  assert len(states) == 3
  for state in states:
    assert all(a < b for a, b in zip(state.after, state.before))
  for w, mask in zip(jax.tree.leaves(got), jax.tree.leaves(
      masks, is_leaf=lambda m: m is None)):
    assert mask is None or not w[~mask].any()
  error = lambda p: sum(float(jnp.sum((unrolled(p, x) - unrolled(
      LOOP, x))**2)) for x in X)
  assert error(got) < error(given) / 2
  # Biases are of one window; the table is of none, or of several.
  assert (got['layers'][0]['bias'] != LAYERS[0]['bias']).any()
  np.testing.assert_array_equal(got['table'], LOOP['table'])


def test_the_masks_decide_what_is_trained_and_not_the_zeros():
  """Of a kernel without weights, of zeros in a bias, and in transposed axes."""
  up, bias, out, last, x = (
      np.random.default_rng(i).normal(size=shape).astype(np.float32)
      for i, shape in enumerate([(8, 16), (16,), (4, 16), (4, 4), (64, 8)]))
  dense = {'up': up, 'bias': np.maximum(bias, 0.), 'out': out, 'last': last}
  fn = lambda p, x: (
      jax.nn.gelu(x @ p['up'] + p['bias'][None]) @ p['out'].T @ p['last'])
  given, masks = jaxsparse.one_shot(
      fn, dense, [x], jaxsparse.unstructured(),
      sparsity={'up': .5, 'out': .5, 'last': 1.})
  assert not np.asarray(masks['last']).any()
  with pytest.warns(UserWarning, match='last keeps its old weights'):
    got = calibration.reconstruct(
        fn, given, masks, [x], dense=dense, steps=20, optimizer=SGD,
        block=lambda path: 'last' if path == 'last' else 'first')
  assert not np.asarray(got['last']).any()
  zero = dense['bias'] == 0
  assert zero.any() and (np.asarray(got['bias'])[zero] != 0).all()
  for path in ('up', 'out'):
    moved, mask = np.asarray(got[path] != given[path]), np.asarray(masks[path])
    assert not moved[~mask].any() and moved[mask].mean() > .9


def test_the_first_window_by_hand():
  given, masks, got, _ = trained(unrolled, LOOP, steps=3)
  w = given['layers'][0]

  def loss(w, x):
    x = LOOP['table'][x]
    y = block(x, LAYERS[0])
    return jnp.sum((block(x, w) - y)**2) / jnp.sum(y**2)
  for step in range(3):
    grads = jax.grad(loss)(w, X[step % 2])
    w = {k: w[k] - .3 * (grads[k] if m is None else jnp.where(m, grads[k], 0.))
         for k, m in masks['layers'][0].items()}
  for k in w:
    np.testing.assert_allclose(got['layers'][0][k], w[k], rtol=1e-4, atol=1e-6)


def test_layers_of_a_scan_are_windows_of_one_program():
  size = _windows._step._cache_size
  _windows._step.clear_cache()
  *_, loop, _ = trained(unrolled, LOOP)
  looped = size()
  *_, got, states = trained(scanned, SCAN)
  both = size()
  assert len(states) == 3
  for k in ('up', 'bias', 'down'):
    np.testing.assert_allclose(
        got['layers'][k], np.stack([layer[k] for layer in loop['layers']]),
        rtol=1e-3, atol=1e-5)
  # Each of the first, of those in the middle and of the last, twice: X differ.
  assert looped <= 6 and both - looped <= 6
  trained(scanned, SCAN)
  assert size() == both


def test_layers_may_be_stacked_along_any_axis():
  def aside(p, x):
    layers = {**p['layers'], 'up': jnp.moveaxis(p['layers']['up'], 1, 0)}
    return scanned({**p, 'layers': layers}, x)
  params = {**SCAN, 'layers': {
      **SCAN['layers'], 'up': np.moveaxis(SCAN['layers']['up'], 0, 1)}}
  *_, expected, _ = trained(scanned, SCAN)
  *_, got, _ = trained(aside, params)
  np.testing.assert_allclose(
      np.moveaxis(got['layers']['up'], 1, 0), expected['layers']['up'],
      rtol=1e-3, atol=1e-5)


def test_batches_of_which_one_takes_more_steps():
  def fn(p, x):
    x = p['table'][x]
    if len(x) > 35:
      x = jnp.sin(x) + jnp.cos(x)  # More arrays before the layers.
    return scanned({**p, 'table': jnp.eye(8)}, x)
  def scanned(p, x):
    return lax.scan(lambda x, p: (block(x, p), ()), x, p['layers'])[0]
  given, masks = jaxsparse.one_shot(fn, SCAN, X, {
      'layers/(up|down)': jaxsparse.unstructured(.6)}, 'magnitude')
  got = calibration.reconstruct(fn, given, masks, X, dense=SCAN, steps=20,
                                optimizer=SGD)
  error = lambda p: sum(float(jnp.sum((fn(p, x) - fn(SCAN, x))**2)) for x in X)
  assert error(got) < error(given)


def test_a_kernel_that_is_changed_on_the_way_is_told():
  def doubled(p, x):
    return scanned({**p, 'layers': {
        **p['layers'], 'up': 2. * p['layers']['up']}}, x)
  with pytest.warns(UserWarning, match='layers/up of a window is not trained'):
    given, _, got, _ = trained(doubled, SCAN)
  np.testing.assert_array_equal(got['layers']['up'], given['layers']['up'])
  assert (got['layers']['down'] != given['layers']['down']).any()


def test_float16_is_trained_in_float32():
  half = jax.tree.map(lambda w: jnp.asarray(w, jnp.float16), LOOP)
  _, _, got, states = trained(unrolled, half, optimizer=optax.sgd(.1))
  assert all(a < b for a, b in zip(states[-1].after, states[-1].before))
  assert got['layers'][0]['up'].dtype == jnp.float16


def test_running_statistics_are_not_trained():
  def fn(p, x):
    y = (x @ p['w'] - p['bn']['mean'][None]) * jax.lax.rsqrt(
        p['bn']['var'][None]) * p['bn']['scale'][None]
    return jnp.tanh(y)
  params = {'w': array(8, 8), 'bn': {
      'mean': array(8), 'var': array(8)**2 + 1, 'scale': array(8)}}
  x = [array(40, 8)]
  given, masks = jaxsparse.one_shot(
      fn, params, x, {'w': jaxsparse.unstructured(.5)})
  got = calibration.reconstruct(fn, given, masks, x, dense=params, steps=5,
                                optimizer=SGD)
  for name, changes in (('mean', False), ('var', False), ('scale', True)):
    assert (got['bn'][name] != params['bn'][name]).any() == changes
  got = calibration.reconstruct(fn, given, masks, x, dense=params, steps=5,
                                optimizer=SGD, which='w')
  assert (got['bn']['scale'] == params['bn']['scale']).all()


def test_it_goes_on_from_any_window():
  given, masks, got, states = trained(unrolled, LOOP)
  for state in states:
    again = calibration.reconstruct(
        unrolled, given, masks, X, dense=LOOP, steps=20, optimizer=SGD,
        state=jax.tree.map(np.asarray, state))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(got)):
      np.testing.assert_array_equal(a, b)


def test_what_does_not_get_better_stays_and_is_told():
  with pytest.warns(UserWarning, match='up keeps its old weights: its loss'):
    given, _, got, states = trained(
        unrolled, LOOP, optimizer=optax.sgd(1e3))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(given)):
    np.testing.assert_array_equal(a, b)
  assert states[-1].before == states[-1].after


def test_windows_are_blocks_by_name():
  kernels = [f'layers/{i}/{k}' for i in range(3) for k in ('up', 'down')]
  chain = segments.chain(unrolled, LOOP, X[0], kernels=kernels)
  assert [*map(len, _windows._windows(chain, r'(.*?\d+)(?:/.*)?'))] == [2, 2, 2]
  assert [*map(len, _windows._windows(chain, lambda path: path))] == [1] * 6
  assert [*map(len, _windows._windows(chain, r'(layers/[02])/.*'))] == [4, 2]
  assert [*map(len, _windows._windows(chain, lambda path: None))] == [6]


def test_the_last_window_ends_where_the_function_does():
  chain = segments.chain(unrolled, LOOP, X[0], kernels=['layers/2/down'],
                         outputs=True)
  leaves = jax.tree.leaves(LOOP)
  segment, = chain.segments
  out, = segment.rest.run(
      chain.values(segment.reads, leaves, chain.start(X[0])))
  np.testing.assert_allclose(out, unrolled(LOOP, X[0]), rtol=1e-4, atol=1e-5)


def test_mistakes_are_told():
  given, masks = pruned(unrolled, LOOP)
  with pytest.raises(ValueError, match='no batches'):
    calibration.reconstruct(unrolled, given, masks, [], dense=LOOP)
  with pytest.raises(ValueError, match='masks'):
    calibration.reconstruct(unrolled, given, masks['layers'], X, dense=LOOP)
  with pytest.raises(ValueError, match='down: params must be zero where'):
    calibration.reconstruct(unrolled, LOOP, masks, X, dense=LOOP)
