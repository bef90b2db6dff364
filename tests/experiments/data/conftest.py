"""Data sets whose files are written first."""

import pytest

from tests._lib import data_files


@pytest.fixture(name='load')
def _load(tmp_path):
  """A function that writes a data set and loads it."""
  def load(name, **overrides):
    if name in data_files.WRITERS and not list(tmp_path.iterdir()):
      data_files.WRITERS[name](tmp_path)
    return data_files.load(
        name, tmp_path, **{**data_files.SIZES, **overrides})
  return load
