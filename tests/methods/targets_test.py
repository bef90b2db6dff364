"""The targets that N:M methods are given."""

import pytest

import jaxsparse
from jaxsparse.methods import _targets


def test_targets_are_n_m_and_axis_by_regular_expression():
  assert _targets.targets({
      'a': jaxsparse.nm(2, 4), 'b': jaxsparse.nm(1, 8, axis=-1), '.*': None
  }) == {'a': (2, 4, -2), 'b': (1, 8, -1), '.*': None}


def test_a_fraction_becomes_a_distribution_and_a_distribution_stays():
  made = _targets.shared(.5, lambda sparsity: ('uniform', sparsity))
  assert made == ('uniform', .5)
  assert _targets.shared(given := jaxsparse.erk(.5), jaxsparse.uniform) is given


def test_other_targets_are_told():
  with pytest.raises(ValueError, match='N:M pattern'):
    _targets.targets({'.*': jaxsparse.block((4, 4))})
