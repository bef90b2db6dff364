r"""Trains one model with one method; start it again and it goes on.

  python -m experiments.train --config=experiments/configs/digits/rigl_90.py \
      --workdir=runs/digits/rigl_90 --config.model=vit --config.seed=1

The work directory receives config.json, dataset.json, metrics.jsonl,
checkpoints/, recipe.yaml if the method is a recipe, and, at the end,
summary.txt and pictures. A run that was killed continues from its last
checkpoint and ends with the very bits it would have ended with.

--config.mesh='data:2,model:4' divides the work among eight devices, see
`training/meshes.py`. Devices of several hosts, or several processes on one,
share a run if each process gets the same command and is told of the others:

  srun --ntasks=2 python -m experiments.train ... --config.mesh=data:16 \
      --coordinator=auto

on SLURM, and so in every worker of a TPU pod. Elsewhere each is given
--coordinator=HOST:PORT --processes=2, and --process=0 or --process=1. All of
them have to see the same work directory, where the first one alone writes.

A mistake in the command is told in one line; --traceback shows where in the
code it was noticed.
"""

import functools
import pathlib
from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import tqdm

from experiments._utils import launch
from experiments._utils import processes
from experiments.records import checkpoints
from experiments.records import metrics
from experiments.records import workdir as workdirs
from experiments.reporting import report
from experiments.training import channels
from experiments.training import meshes
from experiments.training import methods
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A file of experiments/configs.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where the results go.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of the first of several processes, or auto '
    'on clusters that tell it and the rest: SLURM, TPU pods, Open MPI.')
_PROCESSES = flags.DEFINE_integer('processes', None, 'How many there are.')
_PROCESS = flags.DEFINE_integer('process', None, 'Which one this is, from 0.')
flags.DEFINE_bool(
    'traceback', False, 'Whether an error shows where in the code it arose.')


class Result(NamedTuple):
  """How a run ended."""
  state: steps.State
  rows: list[metrics.Row]
  summary: str


def train(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Trains from scratch, or goes on with the run that `workdir` holds.

  Of several processes all call it, with the same arguments.

  Args:
    config: what to train, from `experiments/configs`.
    workdir: a new directory, or that of a run with the same config.

  Returns:
    The last state and all that was measured; the summary in the first process.

  Raises:
    ValueError: if the config, its data, the directory or its checkpoint is
      wrong.
    OSError: if the directory cannot be written to.
  """
  runs.check(config)
  mesh = meshes.create(config)  # None: on one device.
  run, dataset = runs.create(config, mesh)
  state = runs.first_state(config, run, mesh)
  here = functools.partial(meshes.on_one_device, mesh=mesh)
  # Channels are looked for on one device.
  whole = here(state) if config.slim or config.permute_budget else state
  slim = slimming.create(config, run, whole, dataset) if config.slim else None
  permuting = channels.create(config, run, whole, dataset)
  del whole

  path = pathlib.Path(workdir)
  log, saved = path / workdirs.METRICS, path / workdirs.CHECKPOINTS
  processes.first(lambda: _claim(path, config, dataset))
  start, state = checkpoints.restore(saved, state)
  processes.first(lambda: metrics.truncate(log, start))
  batches = meshes.divide(dataset, mesh)
  bar = tqdm.tqdm(range(start + 1, config.steps + 1), initial=start,
                  total=config.steps, disable=processes.hide_bars())
  for step in bar:
    batch = batches.train(config.seed, step, config.batch_size)
    kept = {}
    if step == permuting.step:
      state, kept = permuting.permute(here(state))
      state = run.place(state)
    state, loss = run.train(state, batch)
    if step % config.log_every == 0 or step in (permuting.step, config.steps):
      row = {'step': step, 'loss': float(loss), **kept,
             **run.measure(state, batches.test())}
      if slim:
        row['channels'] = slimming.channels(slim, here(state))
      if slim and step == config.steps:
        row |= slimming.costs(slim, here(state))
      if processes.is_first():
        metrics.append(log, row)
        _show(bar, row)
    if step % config.save_every == 0 or step == config.steps:
      checkpoints.save(saved, step, state)

  rows = metrics.read(log)
  params, masks = here(
      (steps.sparse(state).params, jaxsparse.get_masks(state.opt_state)))
  return Result(state, rows, report.write(path, config, rows, params, masks)
                if processes.is_first() else '')


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax tells a lot.
  del argv
  with launch.mistakes_in_one_line():
    processes.connect(_COORDINATOR.value, count=_PROCESSES.value,
                      index=_PROCESS.value)
    result = train(_CONFIG.value, _WORKDIR.value)
  if processes.is_first():
    print(f'\n{result.summary}\n{report.locations(_WORKDIR.value)}')


def _claim(path, config, dataset):
  workdirs.claim(str(path), config, dataset=config.dataset,
                 fingerprint=dataset.fingerprint)
  if recipe := methods.recipe(config):
    runs.keep_recipe(path, recipe)
    for message in recipe.messages:
      print(f'recipe: {message}', flush=True)
  logging.info('dataset %s, %s', config.dataset, dataset.fingerprint)


def _show(bar, row):
  if bar.disable:
    print(f'step {row["step"]:>6,}  {metrics.describe(row)}', flush=True)
  else:
    bar.set_postfix_str(metrics.describe(row))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=launch.parse)
