"""Launching: configs are told from other files, errors cost one line."""

import sys

from absl import flags
import pytest

from experiments._utils import launch
from experiments._utils import stopping

flags.DEFINE_bool('traceback', False, '') if (
    'traceback' not in flags.FLAGS) else None


class _Parsed:
  """Flags of which none is given."""
  quick = False

  def __call__(self, argv):
    return argv[:1]


@pytest.mark.parametrize('text', [
    'def get_config():\n  pass', 'from other import get_config',
    'import other as get_config', 'get_config = lambda: None'])
def test_a_config_is_a_file_that_defines_get_config(
    text, tmp_path, monkeypatch):
  file = tmp_path / 'config.py'
  file.write_text(text)
  monkeypatch.setattr(launch.flags, 'FLAGS', _Parsed())
  for flag in (f'--config={file}', f'--config={file}:argument',
               f'-config={file}'):
    assert launch.parse(['x', flag]) == ['x']
  assert launch.parse(['x', '--config', str(file)]) == ['x']


@pytest.mark.parametrize('text, part', [
    (b'raise SystemExit("ran")', 'must define get_config, so it is not run'),
    (b'def get_conf(): pass', 'must define get_config'),
    (b'# A title\n\nSome *text*.', 'must be a Python file'),
    (b'\xff\xfe', 'must be a Python file'), (b'a\0b', 'must be a Python file'),
    (b'(' * 5_000, 'must be a Python file'), (None, 'must be a file')])
def test_what_is_no_config_is_not_run(text, part, tmp_path):
  file = tmp_path / 'setup.py'
  if text is not None:
    file.write_bytes(text)
  for argv in ([f'--config={file}'], ['--config', str(file)],
               [f'--config={file}:x']):
    with pytest.raises(SystemExit) as exit_:
      launch.parse(['x', *argv])
    message = exit_.value.code
    assert message.startswith('error: ') and part in message
    assert '\n' not in message and 'configs/digits/rigl_90.py' in message


def test_a_flag_without_its_value_is_told():
  with pytest.raises(SystemExit) as exit_:
    launch.parse(['x', '--config'])
  assert exit_.value.code.startswith('error: --config=. must be a file')


@pytest.mark.parametrize('error, code', [
    (ValueError('two\nlines'), 'error: two lines'),
    (OSError(28, 'No space left', 'rows'), 'error: [Errno 28] No space left: '
     '\'rows\''),
    (MemoryError('8 GB'), 'error: out of memory: MemoryError: 8 GB'),
    (stopping.Stopped('stopped', 15), 143), (KeyboardInterrupt(), 130)])
def test_an_error_costs_one_line(error, code, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['x'])
  flags.FLAGS(['x'], known_only=True)
  with pytest.raises(SystemExit) as exit_:
    with launch.mistakes_in_one_line():
      raise error
  assert exit_.value.code == code
  assert len(capsys.readouterr().err.splitlines()) == isinstance(code, int)


def test_other_errors_are_faults_and_show_where():
  flags.FLAGS(['x'], known_only=True)
  with pytest.raises(ZeroDivisionError):
    with launch.mistakes_in_one_line():
      raise ZeroDivisionError
