"""Mistakes that are easily made, and a word of what is said of each.

`wrong_calls.txt` has a call in each line, and after an arrow a part of its
message: always of a `ValueError`, and at once, not steps later.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import calibration
from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import graph
from jaxsparse import masks
from jaxsparse import packed
from jaxsparse import patterns
from jaxsparse import recipes
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse import training
from jaxsparse import units
from jaxsparse._utils import arguments

_TABLE = pathlib.Path(__file__).with_name('wrong_calls.txt')
_ROWS = [tuple(line.split('  ->  ')) for line in _TABLE.read_text(
    encoding='utf-8').splitlines() if '  ->  ' in line]


def _apply(v, x):
  hidden = jax.nn.relu(x @ v['l1']['kernel'] + v['l1']['bias'][None])
  return hidden @ v['l2']['kernel']


@pytest.fixture(scope='module', name='names')
def _names():
  """All public names, those of the root first, and what calls are about."""
  names = {'jax': jax, 'jnp': jnp, 'np': np, 'optax': optax,
           'nan': float('nan'), 'inf': float('inf')}
  for package in (
      packed, training, rules, schedules, scores, distributions, flows, masks,
      graph, units, patterns, calibration, recipes, jaxsparse):
    names |= {name: getattr(package, name) for name in package.__all__}
  names |= {'schedules': schedules, 'scores': scores, 'flows': flows,
            'calibration': calibration}

  p = {'a': {'kernel': jnp.arange(64.).reshape(8, 8) + 1, 'bias': jnp.ones(8)}}
  v = {'l1': {'kernel': jnp.sin(jnp.arange(32.)).reshape(4, 8),
              'bias': jnp.ones(8)},
       'l2': {'kernel': jnp.cos(jnp.arange(24.)).reshape(8, 3)}}
  x = jnp.ones((2, 4))
  ties = jaxsparse.infer_ties(_apply, v, x)
  orders = jaxsparse.find_permutations(v, ties, jaxsparse.kernel_patterns(
      _apply, v, x, pattern=jaxsparse.nm(2, 4)))
  keep = jaxsparse.alive(v, ties)
  kernel = p['a']['kernel']
  two_of_four = jaxsparse.select(kernel, jaxsparse.nm(2, 4))
  return names | {
      'p': p, 'v': v, 'x': x, 'apply': _apply, 'ties': ties, 'orders': orders,
      'ok': next(iter(orders)), 'keep': keep, 'kk': next(iter(keep)),
      'K': {'.*kernel': jaxsparse.unstructured()},
      'N24': {'.*kernel': jaxsparse.nm(2, 4)},
      'P': jaxsparse.pack(jaxsparse.apply_masks(kernel, two_of_four)),
      'init': lambda rule, q=p: jaxsparse.sparsify(
          optax.sgd(.1), rule).init(q)}


@pytest.mark.parametrize('call, words', _ROWS)
def test_a_wrong_call_is_told(names, call, words):
  with pytest.raises(ValueError) as error:
    eval(call, dict(names))
  assert words in ' '.join(str(error.value).split())
  assert len(str(error.value)) < 1_500


def test_the_page_of_refused_calls_counts_them():
  page = pathlib.Path(__file__).parents[2] / 'docs/guides/refused.md'
  assert f'wrong_calls.txt` | {len(_ROWS)} | ' in page.read_text(
      encoding='utf-8')


@pytest.mark.parametrize('call', [
    'nm(np.int64(2), 4)', 'nm(0, 4)', 'uniform(np.float32(.5))',
    'schedules.every(np.int32(3))', 'schedules.cubic(0, jnp.int32(5))(3)',
    'select(np.ones(8), unstructured(), 0.5)',
    # What lies on a device is not read: a share outside of [0, 1] is clipped.
    'select(jnp.ones(8), unstructured(), jnp.float32(2))',
    'jax.jit(lambda s: select(jnp.ones(8), unstructured(), s))(.5)',
    'jax.jit(lambda r: units.add_group_lasso(r, K).init(p))(.1)',
    'jax.eval_shape(lambda w: pack(w * 0), p["a"]["kernel"])',
    'sparsify(optax.inject_hyperparams(optax.adam)(1e-3), prune(N24)).init(p)',
    'prune_and_grow(K, sparsity=.5, grow=gradient(), '
    'fraction=optax.cosine_decay_schedule(.3, 10))',
    'init(prune({".*": unstructured(.5)}), {"k": None})',
    'init(prune({"k": unstructured(.5)}), '
    '{"k": jnp.ones(8), "rng": jax.random.key(0)})',
    'apply_masks(p, {"a": {"kernel": np.ones((8, 8), bool), "bias": None}})',
    'slim({"x": jnp.ones(3)}, ties, keep)'])
def test_a_right_call_is_none(names, call):
  eval(call, {**names, 'units': units})


def test_a_check_is_no_part_of_a_compiled_function():
  plain = jax.make_jaxpr(lambda w: w * 2)(jnp.ones(4))
  check = arguments.checked()

  def twice(w: jax.Array) -> jax.Array:
    return w * 2
  assert str(jax.make_jaxpr(check(twice))(jnp.ones(4))) == str(plain)
