"""The command that compares a dense network with the forms of a sparse one."""

import json

import pytest

from experiments import side_by_side
from experiments import train
from experiments.records import metrics
from tests._lib import commands

pytestmark = [
    pytest.mark.usefixtures('launched', 'undrawn'),
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
]

_SHORT = ('--config.steps=4', '--config.log_every=2', '--config.save_every=2',
          '--config.batch_size=16', '--config.every=2',
          '--config.sparsity=0.6', '--passes=2')


@pytest.fixture(scope='module', name='both')
def _both(launched, tmp_path_factory):
  """The directories of a sparse run and of its dense twin."""
  del launched
  path = tmp_path_factory.mktemp('runs') / 'both'
  config = commands.config(
      'digits/srigl_90', steps=4, log_every=2, save_every=2, batch_size=16,
      every=2, sparsity=0.6)
  return side_by_side.train_both(config, str(path))


def test_the_twin_differs_in_the_method_alone(both):
  pruned, dense = (json.loads((path / 'config.json').read_text())
                   for path in both)
  assert (pruned.pop('method'), dense.pop('method')) == ('srigl', 'dense')
  assert pruned == dense


def test_forms_have_the_accuracy_of_their_runs(both):
  compared = side_by_side.compare(*both, batches=[1, 2], repeats=1)
  rows = {row.form: row for row in compared.rows}
  assert [*rows][:2] == ['dense', 'masked'] and 'condensed' in [*rows][-1]
  pruned, dense = (metrics.read(path / 'metrics.jsonl')[-1] for path in both)
  assert rows['dense'].judged == pytest.approx(dense['accuracy'])
  for form in [*rows][1:]:
    assert rows[form].judged == pytest.approx(pruned['accuracy'])
  assert rows['masked'].sparsity == pytest.approx(pruned['sparsity'])
  assert rows['dense'].kept == 64 * 32 + 32 * 32 and not rows['dense'].sparsity
  assert {*rows['masked'].milliseconds} == {1, 2}


def test_without_a_dense_run_the_masked_network_is_the_reference(both):
  compared = side_by_side.compare(both[0], batches=[1], repeats=1)
  assert compared.rows[0].form == 'masked'


def test_runs_that_do_not_compare_are_refused(both, tmp_path):
  pruned, dense = both
  with pytest.raises(ValueError, match='must have pruned weights, got '
                     "config.method='dense'"):
    side_by_side.compare(dense)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'config.json').write_text((dense / 'config.json').read_text())
  with pytest.raises(ValueError, match='other must have ended'):
    side_by_side.compare(pruned, other)


def test_a_dense_run_of_another_network_is_refused(both, tmp_path):
  dense = tmp_path / 'dense'
  train.train(commands.config('digits/dense', steps=2, log_every=2,
                              save_every=2, batch_size=16, width=8), str(dense))
  with pytest.raises(ValueError, match=(
      'same network, got mlp with 3,466 parameters and mlp with 6')):
    side_by_side.compare(both[0], dense)


def test_the_command_trains_both_and_goes_on_after_a_kill(
    both, tmp_path, monkeypatch, capsys):
  path = tmp_path / 'both'
  args = commands.arguments('digits/srigl_90', path, *_SHORT)
  trained = train.train

  def killed(config, workdir):
    if config.method == 'dense':
      raise KeyboardInterrupt
    return trained(config, workdir)

  with monkeypatch.context() as patch:
    patch.setattr(train, 'train', killed)
    assert commands.launch(side_by_side.main, patch, *args) == 130
  assert not (path / 'side_by_side.md').exists()
  assert not commands.launch(side_by_side.main, monkeypatch, *args)
  printed = capsys.readouterr().out
  text = (path / 'side_by_side.md').read_text()
  assert text in printed and f'{path / "side_by_side.md"}' in printed
  for name, run in zip(('pruned', 'dense'), both):
    assert metrics.read(path / name / 'metrics.jsonl') == metrics.read(
        run / 'metrics.jsonl')


@pytest.mark.parametrize('args, parts', [
    ([], ['either --config and --workdir']),
    (['--config=experiments/configs/digits/srigl_90.py'],
     ['either --config and --workdir']),
    (['--pruned=a', '--workdir=b'], ['either --config and --workdir']),
    (['--dense=a'], ['either --config and --workdir']),
    (['--pruned=nowhere'], ['nowhere']),
    (['--pruned=a', '--batch_sizes=1,x'], ['--batch_sizes=1,32', "got '1,x'"]),
    (['--pruned=a', '--batch_sizes=0'], ['--batch_sizes=1,32', "got '0'"]),
    (['--pruned=a', '--coordinator=auto'], ['one process compares']),
    (['--pruned=a', '--dry_run'], ['--dry_run is not read by this command']),
])
def test_mistakes_are_one_line(args, parts, monkeypatch):
  message = commands.launch(side_by_side.main, monkeypatch, *args)
  commands.assert_one_line(message, *parts)


def test_a_dense_config_and_the_directory_of_a_run_are_refused(both, tmp_path):
  with pytest.raises(ValueError, match='trains the dense network itself'):
    side_by_side.train_both(commands.config('digits/dense'), str(tmp_path))
  with pytest.raises(ValueError, match='or compare this run: --pruned='):
    side_by_side.train_both(commands.config('digits/srigl_90'), str(both[0]))
