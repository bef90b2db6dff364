"""Blocks by name."""

import pytest

from jaxsparse.calibration import _blocks


@pytest.mark.parametrize('path, place, expected', [
    ('layers/3/up/kernel', (), ('layers/3', ())),
    ('params/Block_12/Dense_0/kernel', (), ('params/Block_12', ())),
    ('layers/3/experts', (5,), ('layers/3', ())),
    ('layers/up', (3,), ('', (3,))),
    ('layers/experts', (3, 5), ('', (3,))),
    ('head/kernel', (), None)])
def test_the_default_is_the_path_up_to_a_number(path, place, expected):
  assert _blocks.name(_blocks.BEFORE_NUMBER, path, place) == expected


def test_a_function_names_what_it_likes():
  block = lambda path: path.split('/')[0] if 'coder' in path else None
  assert _blocks.name(block, 'encoder/up', (2,)) == ('encoder', (2,))
  assert _blocks.name(block, 'encoder/up', ()) == ('encoder', ())
  assert _blocks.name(block, 'head', ()) is None
