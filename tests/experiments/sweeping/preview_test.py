"""Previews: how many runs and steps a sweep still has."""

import pytest

from experiments import sweep
from experiments.sweeping import plan
from experiments.sweeping import preview
from tests._lib import sweeps


def _cells(table):
  return {line.split()[0]: line.split()[1:] for line in table.splitlines()}


def test_runs_and_steps_are_counted_row_by_row(monkeypatch, tmp_path):
  config = sweeps.small(
      methods=('dense', 'ste', 'set_long'), only=sweeps.VARIANTS, tune={
          'key': 'learning_rate', 'values': (1e-3, 1e-2), 'target': '1:8',
          'seeds': (7,)})
  tuning, judged = plan.tuning(config, tmp_path), plan.judged(config, tmp_path)
  monkeypatch.setattr(plan, 'ended', lambda run: (
      run.method, run.target) == ('ste', '2:4'))
  cells = _cells(preview.report(tuning, judged))
  assert cells['method'] == [
      'targets', 'seeds', 'runs', 'tuning', 'ended', 'steps', 'left']
  # Six steps each, nine of set_long.
  assert cells['dense'] == ['1', '2', '2', '2', '0', str(4 * 6)]
  assert cells['ste'] == ['2', '2', '4', '2', '2', str(4 * 6)]
  assert cells['set_long'] == ['2', '2', '4', '2', '0', str(6 * 9)]
  assert cells['all'] == ['10', '6', '2', str(8 * 6 + 6 * 9)]


@pytest.mark.slow
def test_a_sweep_tells_its_runs_and_writes_nothing(tmp_path):
  told = sweep.dry_run(sweeps.small(targets=('2:4', '1:7')),
                       str(tmp_path / 'sweep'))
  assert _cells(told)['ste'] == ['1', '2', '2', '0', '0', str(2 * 6)]
  assert not list(tmp_path.iterdir())
