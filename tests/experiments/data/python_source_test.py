"""Python source: which files are read, and that they are always there."""

from experiments.data import python_source
from tests._lib import data_files


def test_source_files_are_read_once_and_skipped_folders_never(tmp_path):
  data_files.python_source(tmp_path)
  files = python_source.read(tmp_path)
  assert len(files) == 39 and list(files) == sorted(files)
  assert 'z.py' not in files  # The copy.
  assert b'skipped' not in b''.join(files.values())
  assert files['package_1/module_1.py'].startswith(b'# 1\n')


def test_source_needs_no_download():
  data = data_files.load('python_source')
  windows = data_files.inputs(data.test())
  assert windows.shape == (1_024, 64)
  assert (windows < 128).mean() > 0.95


def test_fingerprint_sees_names_and_bytes(load, tmp_path):
  before = load('python_source').fingerprint
  file = tmp_path / 'package_1/module_1.py'
  content = file.read_bytes()
  file.write_bytes(content.replace(b'1', b'2', 1))
  changed = load('python_source').fingerprint
  file.unlink()
  (tmp_path / 'package_1/renamed.py').write_bytes(content)
  assert len({before, changed, load('python_source').fingerprint}) == 3


def test_too_few_bytes_for_a_window_is_told(tmp_path):
  (tmp_path / 'tiny.py').write_text('x = 1\n')
  message = data_files.error('python_source', tmp_path)
  assert 'has 6 bytes to train on, one window takes 65' in message
