r"""Times networks without their dead channels.

  python -m experiments.train \
      --config=experiments/configs/digits/vgg19_chase_90.py --workdir=runs/vgg19
  python -m experiments.benchmarks.slimmed_network --workdirs=runs/vgg19

`--workdirs` takes patterns, such as 'runs/sweep/runs/chase*/*/seed_0'.

Times one forward pass of each run's network on random images in three forms:
dense, with new weights; masked, with zeros, which takes as long on ordinary
hardware; and slimmed, without its dead channels. The last two are told as times
of the dense network over theirs: above 1 they are faster. Times are medians of
interleaved runs in one process. FLOPs are those of the dense products that are
left, which any hardware saves: with taps of convolutions that read padding, as
papers count, and without, as XLA counts. The difference is the largest of the
outputs on a training batch, relative to the largest output.
"""

import functools
import glob
import pathlib

from absl import app
from absl import flags
from absl import logging
import jax

from experiments.benchmarks import timing
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Those of finished runs.')
_BATCHES = flags.DEFINE_list('batches', ['1', '32'], 'Images at once.')
_SIZE = flags.DEFINE_integer(
    'image_size', 32, 'Pixels a side; networks here take any.', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 60, 'Of each network.',
                                lower_bound=1)

_DATA = flags.DEFINE_string('data', None, 'Also writes the table as JSONL.')

_HEAD = ['run', 'pruned (%)', 'channels left', 'FLOPs left',
         'without padding', 'difference']
_OF_A_BATCH = ['dense ms', 'masked', 'slimmed', 'slimmed images/s']


def row(workdir: str, batches: list[int]) -> list:
  """Returns the row of the table for one run, with four columns a batch."""
  config, run, dataset, state = runs.restore(workdir)
  slimmed = slimming.slim(
      slimming.create(config, run, state, dataset), state)
  *_, channels = dataset.shape
  size = _SIZE.value, _SIZE.value, channels
  networks = {'dense': steps.new_variables(config, dataset, seed=0),
              'masked': steps.variables(steps.sparse(state)),
              'slimmed': slimmed.variables}
  apply = jax.jit(run.apply)
  measured = []
  for batch in batches:
    images = jax.random.normal(jax.random.key(0), (batch, *size))
    times = timing.interleaved({
        name: functools.partial(apply, variables, images)
        for name, variables in networks.items()}, _REPEATS.value)
    measured += [
        times['dense'],
        *(times['dense'] / times[name] for name in ('masked', 'slimmed')),
        f'{1e3 * batch / times["slimmed"]:,.0f}']
  flops = [
      [jaxsparse.flops(run.apply, networks[name], jax.ShapeDtypeStruct(
          (1, *size), 'float32'), padding=padding).total
       for name in ('slimmed', 'dense')] for padding in (True, False)]
  left, of = map(sum, zip(*slimmed.channels.values()))
  return [
      '/'.join(pathlib.Path(workdir).parts[-3:]),
      100 * steps.sparsity(state), f'{left:,} of {of:,}',
      *(slimmed / dense for slimmed, dense in flops), f'{slimmed.error:.0e}',
      *measured]


def main(argv: list[str]):
  logging.set_verbosity(logging.WARNING)  # Orbax logs a lot.
  del argv
  workdirs = [path for pattern in _WORKDIRS.value
              for path in sorted(glob.glob(pattern)) or [pattern]]
  batches = [int(batch) for batch in _BATCHES.value]
  timing.report(
      f'{timing.describe()}, {_SIZE.value} pixels',
      _HEAD + [f'batch {batch}: {name}' for batch in batches
               for name in _OF_A_BATCH],
      (row(workdir, batches) for workdir in workdirs), data=_DATA.value)


if __name__ == '__main__':
  flags.mark_flag_as_required('workdirs')
  app.run(main)
