"""Every kind of weight is timed, and first compared with its dense weight."""

import numpy as np
import pytest

from experiments.benchmarks import condensed_layers

pytestmark = pytest.mark.usefixtures('launched')


@pytest.fixture(scope='module', name='made')
def _made(launched):
  del launched
  return condensed_layers.kinds(40, 80, 0.9, block=8, megabytes=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('gradients', [False, True])
def test_every_kind_has_a_row(made, gradients):
  rows = condensed_layers.rows(
      made, 3, repeats=1, slow_repeats=1, gradients=gradients)
  assert {name for _, name, *_ in rows} == (
      made.keys() - {'CSR of scipy'} if gradients else made.keys())


def test_a_tenth_of_the_weights_is_kept_also_if_a_fifth_of_outputs_is_dead(
    made):
  kept = {name: np.count_nonzero(kind.exact) for name, kind in made.items()}
  assert kept == dict.fromkeys(made, 40 * 80 // 10)


@pytest.mark.parametrize('name, outputs, fan_in', [
    ('constant fan-in', 40, 8), ('constant fan-in, slimmed', 32, 10)])
def test_all_outputs_read_equally_many_inputs(made, name, outputs, fan_in):
  assert np.count_nonzero(made[name].exact, 0).tolist() == outputs * [fan_in]


@pytest.mark.parametrize('name', ['blocks', 'BCSR', 'CSR of scipy'])
def test_a_kind_with_another_product_is_an_error(made, name):
  wrong = {'dense': made['dense'],
           name: made[name]._replace(exact=2 * made[name].exact)}
  with pytest.raises(ValueError, match=f'{name} is wrong: a relative error'):
    condensed_layers.rows(wrong, 1, repeats=1)
