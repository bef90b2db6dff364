"""OWL: the formula by hand, the exact total, blocks and layers."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse import calibration

RNG = np.random.default_rng(0)
ANY = jaxsparse.unstructured()


def heavy(scale, *shape):
  """Weights of which some stand out."""
  w = RNG.normal(size=shape)
  return (w * np.where(RNG.random(shape) < .05, scale, 1.)).astype(np.float32)


LAYERS = [{'up': heavy(s, 16, 32), 'down': heavy(s, 32, 16)}
          for s in (1., 5., 20.)]
X = [RNG.normal(size=(64, 16)).astype(np.float32)]


def block(x, p):
  return x + jnp.tanh(x @ p['up']) @ p['down']


def unrolled(p, x):
  for layer in p['layers']:
    x = block(x, layer)
  return x


def scanned(p, x):
  return lax.scan(lambda x, p: (block(x, p), ()), x, p['layers'])[0]


STACKED = jax.tree.map(lambda *ws: np.stack(ws), *LAYERS)
SHARES = calibration.owl(unrolled, {'layers': LAYERS}, X, ANY, .7, outlier=3.)


def test_it_is_the_formula():
  found = calibration.activations(unrolled, {'layers': LAYERS}, X)
  outliers = []
  for i, layer in enumerate(LAYERS):
    scores = np.concatenate([np.ravel(
        np.abs(layer[k]) * np.sqrt(found[f'layers/{i}/{k}'])) for k in layer])
    outliers.append((scores > 3 * scores.mean()).mean())
  d = np.array(outliers)
  r = 2 * .08 * (d - d.min()) / (d.max() - d.min())
  kept = r - r.mean() + .3  # Blocks are equally large.
  for i, share in enumerate(kept):
    for k in ('up', 'down'):
      assert abs(1 - SHARES[f'layers/{i}/{k}'] - share) <= 1 / 512


def test_the_total_is_exact():
  kept = [round((1 - s) * 512) for s in SHARES.values()]
  assert sum(kept) == round(.3 * 6 * 512)
  _, masks = jaxsparse.one_shot(
      unrolled, {'layers': LAYERS}, X, ANY, 'sparsegpt', SHARES)
  assert jaxsparse.summary(masks, masks).kept == sum(kept)


@pytest.mark.parametrize('sparsity', [0., .01, .5, .99, 1.])
def test_the_total_is_exact_where_shares_are_clipped(sparsity):
  shares = calibration.owl(unrolled, {'layers': LAYERS}, X, ANY, sparsity,
                           limit=.5, outlier=3.)
  assert all(0 <= s <= 1 for s in shares.values())
  kept = sum(round((1 - s) * 512) for s in shares.values())
  assert kept == round((1 - sparsity) * 6 * 512)


def test_layers_of_a_scan_are_blocks():
  got = calibration.owl(scanned, {'layers': STACKED}, X, ANY, .7, outlier=3.)
  for k in ('up', 'down'):
    np.testing.assert_allclose(
        got[f'layers/{k}'], [SHARES[f'layers/{i}/{k}'] for i in range(3)],
        atol=1.01 / 512)
  _, masks = jaxsparse.one_shot(
      scanned, {'layers': STACKED}, X, ANY, 'wanda', got)
  # Wanda rounds in each of 32 outputs.
  np.testing.assert_allclose(
      1 - masks['layers']['up'].mean((1, 2)), got['layers/up'], atol=.5 / 16)


def test_blocks_by_name():
  alone = calibration.owl(unrolled, {'layers': LAYERS}, X, ANY, .7,
                          outlier=3., block=lambda path: path + '0')
  assert len({round(s, 2) for s in alone.values()}) > 3
  one = calibration.owl(unrolled, {'layers': LAYERS}, X, ANY, .7,
                        block=r'(layers)/.*')
  assert all(abs(s - .7) <= 1 / 512 for s in one.values())


def test_patterns_with_a_sparsity_stand_outside():
  rules = {'layers/0/.*': jaxsparse.nm(2, 4), '.*': ANY}
  got = calibration.owl(unrolled, {'layers': LAYERS}, X, rules, .7)
  assert sorted(got) == ['layers/1/down', 'layers/1/up', 'layers/2/down',
                         'layers/2/up']
  with pytest.raises(ValueError, match='needs a pattern without'):
    calibration.owl(unrolled, {'layers': LAYERS}, X, jaxsparse.nm(2, 4), .7)


def test_kernels_without_weights_leave_the_others_as_they_are():
  fn = lambda p, x: (x @ p['a'], x @ p['b'], x @ p['none'])
  params = {'a': heavy(1., 16, 8), 'b': heavy(20., 16, 8)}
  shares = calibration.owl(
      lambda p, x: fn(p | {'none': np.zeros((16, 0), np.float32)}, x), params,
      X, ANY, .7)
  params['none'] = np.zeros((16, 0), np.float32)
  got = calibration.owl(fn, params, X, {'.*': ANY}, .7)
  assert got == shares | {'none': .7}


def test_kernels_whose_inputs_are_not_seen_take_no_part_as_in_one_shot():
  fn = lambda p, x: (x @ p['a'], x @ p['b'], x @ (p['c'] * p['s'][:, None]))
  params = {'a': heavy(1., 16, 8), 'b': heavy(20., 16, 8),
            'c': heavy(5., 16, 8), 's': np.ones(16, np.float32)}
  with pytest.warns(UserWarning, match='The inputs of c cannot be found.*part'):
    got = calibration.owl(fn, params, X, ANY, .7)
  assert got == calibration.owl(lambda p, x: fn(p | {
      'c': params['c'], 's': params['s']}, x), {
          'a': params['a'], 'b': params['b']}, X, ANY, .7)
  for function in (calibration.owl, functools.partial(
      jaxsparse.one_shot, method='wanda', sequential=False)):
    with pytest.raises(ValueError, match=r'inputs of c .*Leave them dense: {'):
      function(fn, params, X, {'c': ANY}, sparsity=.7)


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_what_is_not_finite_is_told(wrong):
  layers = {'layers': jax.tree.map(np.copy, LAYERS)}
  layers['layers'][1]['up'][0, 0] = wrong
  with pytest.raises(ValueError, match='layers/1/.*: .* must be finite'):
    calibration.owl(unrolled, layers, X, ANY, .7)
  with pytest.raises(ValueError, match='must be finite'):
    calibration.owl(unrolled, {'layers': LAYERS}, [X[0] * wrong], ANY, .7)


def test_mistakes_are_told():
  for more in ({'limit': 8.}, {'sparsity': 70}):
    with pytest.raises(ValueError, match='must be a fraction'):
      calibration.owl(unrolled, {'layers': LAYERS}, X, ANY,
                      **{'sparsity': .7, **more})
