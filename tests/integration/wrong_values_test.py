"""One wrong value in a correct call of any public function is told by us.

`good_calls` has a correct call of every public function. One of its arguments
becomes a value that hypothesis draws. Then the call goes through, because the
annotation of the argument has such values, or it ends in an error that this
library raises itself, with the name of the argument or the value in it.

Classes have no rows: named tuples and dataclasses are rebuilt by JAX around
anything, so that none of them looks at what it holds.
"""

import inspect
import math
import pathlib
import re
import traceback

import hypothesis
from hypothesis import strategies
import jax
import numpy as np
import pytest

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief
from tests._lib import good_calls

_WRONG = strategies.one_of(
    strategies.sampled_from([
        None, math.nan, math.inf, -1, 0, 1.5, 10**12, 10**400, 'abc', '', [],
        {}, object(), np.ones(3), np.ones((2, 2), int), 2 + 3j,
        np.ones((4, 8), np.complex64), b'x', True, (1, 2), {'a': 1}, [None],
        np.float32(-2), np.array(math.nan), {1}, type]),
    strategies.integers(), strategies.floats(), strategies.text(max_size=5),
    strategies.lists(strategies.integers(-9, 9), max_size=3),
    strategies.dictionaries(strategies.text(max_size=3),
                            strategies.integers(-9, 9), max_size=2))
# What messages call an argument otherwise than by its name.
_CALLED = {
    'batches': 'inputs', 'args': 'inputs', 'ties': 'tie', 'keep': 'tie',
    'permutations': 'tie', 'h': 'h ', 'start': 'weights', 'start ': 'shape',
    'params': 'parameter', 'fn': '(params, *inputs)', 'beta': 'rate',
    'masks': 'mask', 'recipe': 'file',
    # Of a tree the message names its place, `[1]` or `its root`.
    'grads': 'structure', 'tree': 'in the ties', 'found': 'activations'}
# Functions whose errors are not ours.
_OTHERS = {
    'nn.dot_general': 'stands for jax.lax.dot_general, and has its errors',
    'nn.training_dot_general': 'stands for jax.lax.dot_general, too',
    'nn.unreadable': 'calls the model of a user, who raises what he likes'}
_SLOW = {  # Those take seconds where a value is none that is refused.
    'calibration.activations', 'calibration.admm', 'calibration.alps',
    'calibration.input_statistics', 'calibration.one_shot', 'calibration.owl',
    'calibration.reconstruct', 'calibration.sparsegpt', 'calibration.wanda',
    'calibration.refit', 'graph.flops', 'graph.infer_kernels',
    'graph.kernel_patterns', 'graph.last_kernels', 'training.rehearse',
    'units.check_ties', 'units.find_permutation', 'units.find_permutations',
    'units.fold_constants', 'units.infer_ties', 'units.sensitivity',
    'scopes.all_layers', 'scopes.by_mean_score', 'scopes.by_survivors',
    'scopes.per_sign', 'scopes.per_layer', 'nn.pack_model', 'nn.slim_model',
    'packed.sharded_matmul', 'packed.sharded_training_matmul'}
_NAMES = [name for name in good_calls.functions() if name not in _OTHERS]


def test_the_page_of_refused_calls_counts_the_functions():
  page = pathlib.Path(__file__).parents[2] / 'docs/guides/refused.md'
  assert (f'for {len(_NAMES)} of the {len(good_calls.functions())} public '
          'functions') in ' '.join(page.read_text(encoding='utf-8').split())


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
  """Drawn texts are names of files to `to_recipe`, which writes them."""
  monkeypatch.chdir(tmp_path)


def _parameters(name):
  """The arguments that a call may have, but those that may be anything else."""
  function = good_calls.functions()[name]
  return [each for each in inspect.signature(function).parameters.values()
          if each.kind is not each.VAR_KEYWORD]


def _raised(name, argument, value):
  """The error of the call with a value in place of an argument, or `None`."""
  function, given = good_calls.good_call(name)
  several = argument.kind is argument.VAR_POSITIONAL
  try:
    good_calls.call(function, {
        **given, argument.name: (value,) if several else value})
  except (ValueError, TypeError, NotImplementedError) as error:
    return error
  except UserWarning as warning:  # Nothing is trained that matches.
    assert name == 'calibration.reconstruct' and argument.name == 'which'
    del warning
  except OSError as error:
    assert name == 'recipes.from_recipe', error  # A file that is not there.
  return None


def _is_named(message, argument, value):
  """Whether a message has the argument, a word of its name, or the value."""
  words = [argument.name, argument.name.rstrip('s'),
           _CALLED.get(argument.name, argument.name), brief(value, 40)[:20]]
  words += [word for word in argument.name.split('_') if len(word) > 3]
  if arguments.is_array(value):
    words += [str(tuple(np.shape(value))), str(value.dtype)]
  words += [repr(each)[:20] for each in value] if isinstance(
      value, (dict, list, tuple)) else []
  return any(word.lower() in message.lower() for word in words)


def _is_told(name, argument, value):
  error = _raised(name, argument, value)
  check = arguments.of(argument.annotation)
  if error is None:
    assert check is None or check.takes(value), f'{value!r} goes through'
    return
  last = traceback.extract_tb(error.__traceback__)[-1]
  said = f'{type(error).__name__} at {last.filename}:{last.lineno}: {error}'
  assert '/jaxsparse/' in last.filename, said
  assert _is_named(str(error), argument, value), said
  assert len(re.findall(r'\w+', str(error))) > 3, said
  assert len(str(error)) < 1_500, said


def _try(name, examples):
  @hypothesis.settings(
      max_examples=examples, derandomize=True, deadline=None, database=None,
      suppress_health_check=list(hypothesis.HealthCheck))
  @hypothesis.given(strategies.data())
  def run(data):
    argument = data.draw(strategies.sampled_from(_parameters(name)))
    _is_told(name, argument, data.draw(_WRONG))
  with jax.traceback_filtering('off') if hasattr(
      jax, 'traceback_filtering') else _unfiltered():
    run()


class _unfiltered:
  """Tracebacks that end where an error was raised, in JAX or here."""

  def __enter__(self):
    self._before = jax.config.jax_traceback_filtering
    jax.config.update('jax_traceback_filtering', 'off')

  def __exit__(self, *_):
    jax.config.update('jax_traceback_filtering', self._before)


@pytest.mark.parametrize('name', [n for n in _NAMES if n not in _SLOW])
def test_a_wrong_value_is_told(name):
  if _parameters(name):
    _try(name, 8)


@pytest.mark.slow
@pytest.mark.parametrize('name', _NAMES)
def test_each_wrong_value_is_told(name):
  if _parameters(name):
    _try(name, 20 if name in _SLOW else 150)


@pytest.mark.parametrize('name', [n for n in _NAMES if n not in _SLOW])
def test_the_call_is_a_correct_one(name):
  good_calls.call(*good_calls.good_call(name))


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(_SLOW | {*_OTHERS}))
def test_the_slow_call_is_a_correct_one(name):
  if name != 'nn.unreadable':  # It is asked about `model.apply` of Linen.
    good_calls.call(*good_calls.good_call(name))
