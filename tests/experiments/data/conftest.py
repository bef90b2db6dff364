"""Data sets whose files are written first."""

import pytest

from tests._lib import data_files


@pytest.fixture(name='load')
def _load(tmp_path):
  """A function that writes a data set and loads it."""
  def load(name, **overrides):
    is_shipped = name not in data_files.WRITERS
    if not is_shipped and not list(tmp_path.iterdir()):
      data_files.WRITERS[name](tmp_path)
    return data_files.load(name, None if is_shipped else tmp_path,
                           **{**data_files.SIZES, **overrides})
  return load
