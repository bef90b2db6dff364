"""Patterns and sparsities that fit, and taught errors about others."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse import rules
from jaxsparse import schedules

_FREE = {'.*kernel': jaxsparse.unstructured()}


def _params():
  return {'a': {'kernel': jax.random.normal(jax.random.key(0), (16, 8)),
                'bias': jnp.zeros(8)}}


@pytest.mark.parametrize('patterns, message', [
    ({'.*kernel': jaxsparse.nm(2, 6)}, 'a/kernel.*multiple of 6.*16'),
    ({'.*': jaxsparse.nm(2, 4)}, 'a/bias.*axis -2'),
    ({'.*kernel': 'nm(2, 4)'}, 'pattern or None'),
    ({'.*kernle': jaxsparse.nm(2, 4)}, 'a/kernel'),
    ({'.*kernel': jaxsparse.unstructured()}, 'a/kernel.*uniform'),
])
def test_patterns_that_do_not_fit_are_taught_errors(patterns, message):
  with pytest.raises(ValueError, match=message):
    jaxsparse.prune(patterns).init(_params())


@pytest.mark.parametrize('make, dtype', [
    (lambda: jnp.arange(4), 'int32'), (lambda: jnp.ones(4, bool), 'bool'),
    (lambda: jax.random.key(0), 'key')])
def test_a_parameter_that_is_no_weight_is_named(make, dtype):
  params = {'a': jnp.arange(4.), 'b': {'w': make()}}
  for rule in (jaxsparse.lock, lambda p: jaxsparse.prune(p, sparsity=.5)):
    with pytest.raises(ValueError, match=f'b/w: only floating.*got {dtype}'):
      rule({'.*': jaxsparse.unstructured()}).init(params)
  masks = jaxsparse.lock().init(params).masks
  assert masks['b']['w'] is None and not masks['a'][0]


def test_a_number_of_python_is_a_weight():
  params = {'a': jnp.array([0., 1.]), 'temperature': 1.5}
  tx = jaxsparse.sparsify(optax.sgd(.5), jaxsparse.lock())
  updates, _ = tx.update(params, tx.init(params), params)
  assert updates['temperature'] == -.75
  rule = jaxsparse.prune({'.*': jaxsparse.unstructured(.5)})
  assert rule.init(params).masks['a'].tolist() == [False, True]


def test_a_missing_sparsity_is_told_before_the_first_pruning_step():
  rule = jaxsparse.prune(_FREE, when=schedules.every(5, begin=5))
  with pytest.raises(ValueError, match='uniform'):
    rule.init(_params())


def test_first_match_wins_and_none_is_dense():
  shapes = rules.resolve(
      {'a/kernel': None, '.*kernel': jaxsparse.nm(1, 4)},
      {**_params(), 'b': {'kernel': jnp.ones((4, 4))}})
  assert shapes['a']['kernel'] is None
  assert shapes['b']['kernel'] == jaxsparse.nm(1, 4)
