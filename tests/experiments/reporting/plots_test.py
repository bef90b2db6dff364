"""Pictures of sweeps."""

import os

from matplotlib import figure
import pytest

from experiments.reporting import plots
from experiments.reporting import step_plots
from tests._lib import sweeps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]

_PNG = b'\x89PNG'


@pytest.mark.parametrize('count', [3, 12, 40])
def test_any_number_of_targets_is_drawn(count, tmp_path):
  targets = tuple(f'{50 + i}%' for i in range(count))
  config = sweeps.small(methods=('dense', 'set'), targets=targets)
  runs = sweeps.runs({('dense', None): (90,), **{
      ('set', target): (80,) for target in targets}})
  for run in runs:
    run.rows[0]['train_flops'] = 1e9
  drawn = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        figure.Figure, 'savefig', lambda self, *_, **__: drawn.append(self))
    plots.write(tmp_path, runs, config)
  told = [handle for handle in drawn[-1].legends[0].get_lines()
          if handle.get_label() in targets]
  assert len(told) == count
  if count < 15:
    assert len({line.get_marker() for line in told}) == count


def test_pictures_are_drawn_for_what_was_measured(tmp_path):
  config = sweeps.small(methods=('dense', 'ste', 'sr_ste', 'mdgf'))
  runs = sweeps.runs(sweeps.MEASURED)
  plots.write(tmp_path, runs, config)
  assert os.listdir(tmp_path) == [plots.TARGETS]  # Nothing over steps.
  for run in runs:
    run.rows.insert(0, {**run.rows[0], 'step': 1})
  plots.write(tmp_path, runs, config)
  assert sorted(os.listdir(tmp_path)) == [plots.TARGETS, step_plots.MASKS]
  for run in runs:
    run.rows[0].update(
        train_flops=1e9, flips=0.1, noise_kept=1e-3, noise_pruned=None)
  plots.write(tmp_path, runs, config)
  assert sorted(os.listdir(tmp_path)) == sorted(
      [plots.TARGETS, plots.FLOPS, step_plots.NOISE, step_plots.MASKS])
  for run in runs:
    run.rows[0].update(second_kept=1e-9, second_pruned=1e-8)
  plots.write(tmp_path, runs, config)
  assert step_plots.SECOND in os.listdir(tmp_path)
  # Under any name, and each is its own.
  drawings = plots.pictures(runs, config)
  for name in (step_plots.NOISE, step_plots.SECOND):
    drawings[name](tmp_path / f'x_{name}')
    assert (tmp_path / f'x_{name}').read_bytes() == (
        tmp_path / name).read_bytes()
  assert len({(tmp_path / name).read_bytes() for name in drawings}) == 5
  for file in tmp_path.iterdir():
    assert file.read_bytes().startswith(_PNG)
