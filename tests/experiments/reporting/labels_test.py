"""Names and colours of methods."""

from matplotlib import colors
import pytest

from experiments.pruning import plan as pruning
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
  assert labels.face('rigl_long', '#D55E00') == 'white'
  assert labels.face('rigl', '#D55E00') == '#D55E00'


def test_rows_that_only_a_sweep_knows_are_told_apart():
  decays = ['sr_ste_2e-5', 'sr_ste_2e-4', 'sr_ste_2e-3']
  names = ['dense', 'ste', *decays, 'sr_ste_decoupled_1e-4',
           'sr_ste_decoupled_1e-3', 'chase_40', 'chase_40_skip', 'mdgf_linear',
           'mdgf_linear_long']
  found = labels.colors(names)
  assert [*found] == names
  assert len({*found.values()}) == len(names) - 1  # `_long` is as its method.
  assert found['sr_ste_2e-4'] not in labels._COLORS.values()
  # Shades go from pale to dark.
  lightness = [sum(colors.to_rgb(found[name])) for name in decays]
  assert lightness == sorted(lightness, reverse=True)
  # The colour of a method that is drawn is no variant's, others may have it.
  assert found['chase_40_skip'] != found['chase_40'] == '#2171B5'
  assert labels.colors(['rigl_fast']) == {'rigl_fast': labels.color('rigl')}


@pytest.mark.parametrize('names', [
    ('ste', 'prune_retrain', 'step', 'elsa_nm'), ('set', 'prune_retrain'),
    ('granet', 'cast'),
    ('rigl', 'sr_ste', 'sr_ste_1', 'sr_ste_2', 'row')])
def test_methods_of_one_sweep_have_different_colours(names):
  found = labels.colors(names)
  assert len({*found.values()}) == len(names)
  assert labels.color('unknown') not in found.values()
  assert found[names[0]] == labels.color(names[0])


def test_rows_of_one_word_more_or_less_have_different_shades():
  assert len({*labels.colors(['row', 'row_1', 'row_2']).values()}) == 3


def test_variants_keep_the_colour_of_a_method_that_gave_up_its_own():
  found = labels.colors(['ste', 'set', 'set_long'])
  assert found['set'] == found['set_long'] != found['ste']


def test_variants_of_one_method_are_told_apart_by_their_markers():
  names = [name + suffix for name in pruning.METHODS
           if name.startswith('wanda') for suffix in ('', '_refit')]
  looks = {(labels.marker(name), labels.face(name, labels.color(name)))
           for name in names}
  assert len(looks) == len(names) == 6


def test_more_rows_than_colours_are_grey():
  names = [f'row{i}' for i in range(40)]
  assert labels.colors(names)['row39'] == labels.color('row39')
