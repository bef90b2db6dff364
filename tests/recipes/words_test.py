"""Words in recipes: a row of a table is all that a new one needs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse.recipes import _checks
from jaxsparse.recipes import _words
from jaxsparse.recipes import building
from jaxsparse.recipes import schema


def _made(**recipe):
  return building.from_recipe({'sparsity': .5, **recipe}, total_steps=100)


@dataclasses.dataclass(frozen=True)
class _Momentum(_checks.Level):
  decay: float = _checks.key(_checks.number, .5, 'of the mean')


def test_a_row_is_all_that_a_criterion_needs(monkeypatch):
  with pytest.raises(ValueError, match='criterion must be one of magnitude'):
    _made(criterion='momentum')
  monkeypatch.setitem(_words.CRITERIA, 'momentum', _words.Row(
      scores.momentum, _Momentum, by_gradient=True, accumulates=True))
  made = _made(criterion='momentum', score_dtype='bfloat16')
  assert made.recipe['criterion'] == {'momentum': {'decay': .5}}
  assert made.recipe['start'] == 1
  state = made.rule.init({'kernel': jnp.ones((4, 4))})
  assert state.scores.mean['kernel'].dtype == jnp.bfloat16
  assert '`criterion.momentum.decay` | of the mean | 0.5' in schema.table()
  with pytest.raises(ValueError, match="'dekay'. Did you mean 'decay'"):
    _made(criterion={'momentum': {'dekay': .5}})


def test_a_row_is_all_that_other_words_need(monkeypatch):
  for table, word, make in (
      (_words.SCOPES, 'flat', distributions.uniform),
      (_words.DECAYS, 'straight', lambda start, end, *_: (
          schedules.linear(start, end))),
      (_words.FADES, 'straight', schedules.fade_linear),
      (_words.FLOWS, 'through', _words.Row(flows.ste))):
    monkeypatch.setitem(table, word, make)
  made = _made(scope='flat', decay='straight', flow='through')
  assert made.recipe['flow'] == {'through': {}} and made.flow.gain(0) == 0.
  gain = _made(flow={'mdgf': {'fade': 'straight'}}).flow.gain
  np.testing.assert_allclose([gain(10), gain(40), gain(70)], [1., .5, 0.])
