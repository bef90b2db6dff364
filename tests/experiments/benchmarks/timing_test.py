"""Forms of a network: their times by batch, their bytes, their outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import timing
from jaxsparse import packed

pytestmark = pytest.mark.usefixtures('launched')


def _apply(weights, x):
  return x @ weights['w']


def test_every_form_has_a_time_for_each_batch():
  seen = []

  def inputs(batch):
    seen.append(batch)
    return np.ones((batch, 4), np.float32)

  form = timing.Form(_apply, {'w': jnp.ones((4, 2))})
  other = timing.Form(lambda w, x: 2 * x @ w, jnp.full((4, 2), 0.5), form)
  times = timing.forms({'one': form, 'other': other}, inputs, [3, 1], 2)
  assert seen == [3, 1]
  assert {name: len(ms) for name, ms in times.items()} == {
      'one': 2, 'other': 2}
  assert min(map(min, times.values())) > 0


def test_every_turn_begins_with_another_function():
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in 'abc'}
  times = timing.interleaved(functions, 4)
  assert ''.join(calls) == 'abc' + 'abc' + 'bca' + 'cab' + 'abc'
  assert [*times] == ['a', 'b', 'c']


def test_a_form_with_other_outputs_is_an_error():
  form = timing.Form(_apply, {'w': jnp.ones((4, 2))})
  wrong = timing.Form(lambda w, x: 2 * x @ w, jnp.ones((4, 2)), form)
  with pytest.raises(ValueError, match='twice is wrong: a relative error of 1'):
    timing.forms({'twice': wrong}, lambda batch: jnp.ones((batch, 4)), [1], 1)


def test_bytes_count_indices():
  w = jnp.zeros((8, 4)).at[:3].set(1.)
  condensed = packed.condense(w, w != 0, block=1)
  assert timing.Form(_apply, {'w': w, 'b': jnp.ones(4)}).nbytes == 4 * (32 + 4)
  assert timing.Form(_apply, {'w': condensed}).nbytes == (4 + 4) * 3 * 4
