"""What a newcomer writes first works, or says what to write."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import methods
from jaxsparse import schedules

_FREE = {'.*kernel': jaxsparse.unstructured(), '.*': None}


def _params():
  return {'kernel': jnp.arange(1., 41.).reshape(4, 10), 'bias': jnp.ones(10)}


def _kept(rule):
  return int(rule.init(_params()).masks['kernel'].sum())


def test_a_sparsity_may_stand_alone_in_a_pattern():
  assert jaxsparse.unstructured(0.9) == jaxsparse.unstructured(sparsity=0.9)
  assert _kept(jaxsparse.prune({'kernel': jaxsparse.unstructured(0.9)})) == 4


def test_prune_takes_a_sparsity():
  one = jaxsparse.prune(_FREE, sparsity=0.75)
  two = jaxsparse.prune(_FREE, distribution=jaxsparse.uniform(0.75))
  assert _kept(one) == _kept(two) == 10


def test_two_ways_to_say_a_sparsity_are_refused():
  with pytest.raises(ValueError, match=r'distribution=jaxsparse.erk\(0.9\)'):
    jaxsparse.prune(_FREE, sparsity=0.9, distribution=jaxsparse.erk(0.9))


@pytest.mark.parametrize('make', [
    jaxsparse.prune, jaxsparse.lock,
    lambda p: jaxsparse.prune_and_grow(
        p, sparsity=0.9, grow=jaxsparse.gradient()),
    lambda p: jaxsparse.rules.forward_backward(p, backward=0.5)],
                         ids=['prune', 'lock', 'grow', 'forward_backward'])
def test_a_pattern_without_a_path_is_told_at_once(make):
  with pytest.raises(ValueError, match=re.escape(
      "{'.*kernel': nm(2, 4)}")):
    make(jaxsparse.nm(2, 4))
  with pytest.raises(ValueError, match='map to a pattern or None'):
    make({'.*kernel': '2:4'})


def test_sparsify_takes_a_whole_method():
  method = methods.rigl(_FREE, 0.75, 10, every=2)
  adam = optax.sgd(0.1)
  whole = jaxsparse.sparsify(adam, method).init(_params())
  parts = jaxsparse.sparsify(adam, method.rule, method.flow).init(_params())
  np.testing.assert_array_equal(
      whole.masks['kernel'], parts.masks['kernel'])
  with pytest.raises(ValueError, match='brings its own flow'):
    jaxsparse.sparsify(adam, method, jaxsparse.ste())


@pytest.mark.parametrize('wrong', [
    jaxsparse.hard(), jaxsparse.nm(2, 4), _FREE, 0.9, methods.rigl,
    jaxsparse.prune])
def test_what_is_no_rule_is_told(wrong):
  with pytest.raises(ValueError, match='must be a rule or a method'):
    jaxsparse.sparsify(optax.sgd(0.1), wrong)


@pytest.mark.parametrize('around', [
    lambda rule: rule, jaxsparse.combine,
    lambda rule: jaxsparse.rules.progressive(rule, steps=1),
    lambda rule: jaxsparse.stages({0: rule})],
                         ids=['alone', 'combine', 'progressive', 'stages'])
def test_a_rule_may_be_a_plain_transformation_of_two_functions(around):
  lock = jaxsparse.lock()
  plain = optax.GradientTransformation(
      lock.init, lambda grads, state, params=None: lock.update(
          grads, state, params))
  tx = jaxsparse.sparsify(optax.sgd(1.), around(plain))
  params = {'w': jnp.array([0., 2.])}
  updates, _ = tx.update({'w': jnp.ones(2)}, tx.init(params), params)
  np.testing.assert_array_equal(updates['w'], [0., -1.])


def test_a_method_is_rehearsed_whole():
  method = methods.ste({'kernel': jaxsparse.nm(1, 4), '.*': None}, 8)
  seen = jaxsparse.training.rehearse(method, _params(), steps=8)
  assert float(seen['kernel'].forward) == 0.25


def test_functions_are_asked_for_where_they_stand():
  with pytest.raises(ValueError, match=r'when=jaxsparse\.schedules\.every'):
    jaxsparse.prune(_FREE, sparsity=0.9, when=100)
  with pytest.raises(ValueError, match=r'schedule=jaxsparse\.schedules\.cubic'):
    jaxsparse.prune(_FREE, sparsity=0.9, schedule=0.5)
  assert callable(schedules.every(100))
