"""The line that a warning names."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse
from jaxsparse._utils import warning


def _here():
  return inspect.currentframe().f_back.f_lineno


def test_a_warning_names_the_line_that_called():
  with pytest.warns(UserWarning, match='^so$') as told:
    line = _here() + 1
    warning.warn('so')
  assert [(w.filename, w.lineno) for w in told] == [(__file__, line)]


@pytest.mark.parametrize('call', [
    lambda init, params: init(params),
    lambda init, params: jax.jit(init)(params),
    lambda init, params: jax.eval_shape(optax.chain(
        optax.GradientTransformation(init, None)).init, params)])
def test_functions_between_are_passed_over(call):
  """`prune` warns of N:M across heads."""
  tx = jaxsparse.sparsify(
      optax.sgd(0.1), jaxsparse.prune({'.*': jaxsparse.nm(2, 4)}))
  with pytest.warns(UserWarning, match='across the 4 heads') as told:
    call(tx.init, {**dict.fromkeys(
        ('query', 'key', 'value'), {'kernel': jnp.ones((32, 4, 8))}),
                   'out': {'kernel': jnp.ones((4, 8, 32))}})
  assert {w.filename for w in told} == {__file__}


def test_a_line_is_told_once_by_default():
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('default')
    for _ in range(2):
      warning.warn('again')
  assert len(told) == 1
