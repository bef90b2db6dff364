"""Names and colours of methods."""

import pytest

from experiments.reporting import labels
from experiments.training import methods


@pytest.mark.parametrize('method, name', [
    ('dense', 'dense'), ('ste', 'STE'), ('rigl_itop', 'RigL-ITOP'),
    ('rigl_itop_long', 'RigL-ITOP long'), ('chase_30', 'Chase 30'),
    ('step', 'STEP'), ('two_of_four', 'two of four')])
def test_variants_have_the_name_of_their_method(method, name):
  assert labels.label(method) == name


def test_every_name_is_that_of_a_method():
  assert labels._NAMES.keys() <= methods.METHODS.keys()
  assert len({*labels._NAMES.values()}) == len(labels._NAMES)


def test_variants_have_the_colour_of_their_method_and_open_markers():
  assert labels.color('rigl_long') == labels.color('rigl') == '#D55E00'
  assert labels.face('rigl_long') == 'white'
  assert labels.face('rigl') == '#D55E00'
