"""Names are looked up in tables."""

import pytest

from experiments._utils import names


def test_unknown_name_is_an_error_that_lists_the_names():
  with pytest.raises(ValueError, match='There are: rigl, set'):
    names.lookup({'set': 1, 'rigl': 2}, 'quux', kind='method')
