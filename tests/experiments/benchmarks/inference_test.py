"""Every form of a network is timed and has the outputs it should have."""

import pytest

from experiments.benchmarks import inference

pytestmark = pytest.mark.usefixtures('launched')


@pytest.mark.slow
@pytest.mark.parametrize('make, forms', [
    (lambda: inference.mlp(64, 2), 6),
    (lambda: inference.blocks(64, 1, 3), 6)])
def test_every_form_has_a_row(make, forms):
  rows = inference.rows('net', make(), [1, 2], 1)
  assert len(rows) == forms and {len(row) for row in rows} == {5}
  nbytes = {form: share for _, form, *_, share in rows}
  assert nbytes['packed, 2:4'] < 0.6
  assert nbytes['condensed, 1 x 16 blocks, 90%'] < 0.3


def test_a_form_that_computes_something_else_is_an_error():
  network = inference.mlp(64, 2)
  form = 'packed, 2:4'
  wrong = network._replace(same={form: network.forms['dense']})
  with pytest.raises(ValueError, match='packed, 2:4 is wrong: a relative'):
    inference.rows('net', wrong, [1], 1)
