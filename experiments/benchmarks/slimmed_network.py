r"""Times networks without their dead channels.

  python -m experiments.train \
      --config=experiments/configs/digits/vgg19_chase_90.py --workdir=runs/vgg19
  python -m experiments.benchmarks.slimmed_network --workdirs=runs/vgg19

`--workdirs` takes patterns, such as 'runs/sweep/runs/chase*/*/seed_0'.

Times one forward pass of each run's network on random images in three forms:
dense, with new weights; masked, with zeros, which takes as long on ordinary
hardware; and slimmed, without its dead channels. Times are medians of
interleaved runs in one process. FLOPs are those of the dense products that are
left, which any hardware saves: with taps of convolutions that read padding, as
papers count, and without, as XLA counts. The last column is the largest
difference of outputs on a training batch, relative to the largest output.
"""

import functools
import glob
import pathlib

from absl import app
from absl import flags
import jax

from experiments.benchmarks import timing
from experiments.training import runs
from experiments.training import slimming
from experiments.training import steps
import jaxsparse

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Those of finished runs.')
_BATCH = flags.DEFINE_integer('batch', 32, 'Images at once.', lower_bound=1)
_SIZE = flags.DEFINE_integer(
    'image_size', 32, 'Pixels a side; networks here take any.', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 21, 'Of each network.',
                                lower_bound=1)

_DATA = flags.DEFINE_string('data', None, 'Also writes the table as JSONL.')

_HEAD = ['run', 'pruned (%)', 'channels left', 'FLOPs left',
         'without padding', 'dense ms', 'masked ms', 'slimmed ms',
         'slimmed images/s', 'speed-up', 'difference']


def row(workdir: str) -> list:
  """Returns the row of the table for one run."""
  config, run, dataset, state = runs.restore(workdir)
  slimmed = slimming.slim(
      slimming.create(config, run, state, dataset), state)
  *_, channels = dataset.shape
  images = jax.random.normal(
      jax.random.key(0), (_BATCH.value, _SIZE.value, _SIZE.value, channels))
  networks = {'dense': steps.new_variables(config, dataset, seed=0),
              'masked': steps.variables(steps.sparse(state)),
              'slimmed': slimmed.variables}
  apply = jax.jit(run.apply)
  times = timing.interleaved({
      name: functools.partial(apply, variables, images)
      for name, variables in networks.items()}, _REPEATS.value)
  flops = [
      [jaxsparse.flops(run.apply, networks[name], images, padding=padding).total
       for name in ('slimmed', 'dense')] for padding in (True, False)]
  left, of = map(sum, zip(*slimmed.channels.values()))
  return [
      '/'.join(pathlib.Path(workdir).parts[-3:]),
      100 * steps.sparsity(state), f'{left:,} of {of:,}',
      *(slimmed / dense for slimmed, dense in flops), *times.values(),
      f'{1e3 * _BATCH.value / times["slimmed"]:,.0f}',
      times['dense'] / times['slimmed'], f'{slimmed.error:.0e}']


def main(argv: list[str]):
  del argv
  workdirs = [path for pattern in _WORKDIRS.value
              for path in sorted(glob.glob(pattern)) or [pattern]]
  timing.report(
      f'{timing.describe()}, batch {_BATCH.value}, {_SIZE.value} pixels', _HEAD,
      map(row, workdirs), data=_DATA.value)


if __name__ == '__main__':
  flags.mark_flag_as_required('workdirs')
  app.run(main)
