"""Times one-shot pruning of a transformer, and the statistics of its inputs.

  python -m experiments.benchmarks.one_shot_model

The model has 12 blocks of a decoder without biases, with 9.4M weights in
kernels of width 256. The data are 4 batches of 8 x 128 tokens. The first table
compares a forward pass with the collection of statistics, which also takes one
forward pass; runs are interleaved in one process. The second table has the
seconds of `one_shot` in the first call, which compiles, and in the second. The
goals are norms in at most 1.05 of a forward pass, and every method in less than
60 s.
"""

import functools
import time

from absl import app
from absl import flags
import jax

from experiments.benchmarks import timing
from experiments.benchmarks import transformer
import jaxsparse
from jaxsparse import calibration

_WIDTH = flags.DEFINE_integer('width', 256, 'Width of the residual stream.')
_DEPTH = flags.DEFINE_integer('depth', 12, 'Blocks.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repeats of each function.')
_SCANNED = flags.DEFINE_bool('scanned', False, 'Makes a scan of the blocks.')


def main(argv: list[str]) -> None:
  del argv
  print(f'{timing.describe()}\n')
  apply, params, batches = transformer.model(
      _WIDTH.value, _DEPTH.value, _SCANNED.value)
  functions = {
      'forward pass': apply,
      'norms': functools.partial(calibration.input_statistics, apply),
      'moments': functools.partial(
          calibration.input_statistics, apply, kind='moment')}
  made = {name: timing.compiled(f, params, batches[0])
          for name, f in functions.items()}
  times = timing.interleaved(
      {name: functools.partial(f, params, batches[0])
       for name, (_, f) in made.items()}, _REPEATS.value)
  timing.print_table(
      [f'{_DEPTH.value} blocks of width {_WIDTH.value}', 'ms', 'x', 'goal',
       'peak MB', 'compiling, s'],
      [[name, ms, ms / times['forward pass'],
        '<= 1.05' if name == 'norms' else '',
        timing.peak_megabytes(made[name][1]), made[name][0]]
       for name, ms in times.items()])
  print()
  rows = []
  half = jaxsparse.unstructured(.5)
  for method in ('magnitude', 'wanda', 'sparsegpt', 'admm'):
    seconds = []
    for _ in range(2):
      start = time.perf_counter()
      jax.block_until_ready(
          jaxsparse.one_shot(apply, params, batches, half, method))
      seconds.append(time.perf_counter() - start)
    rows.append([method, *seconds, '<= 60'])
  timing.print_table(['one_shot', 'first, s', 'again, s', 'goal'], rows)


if __name__ == '__main__':
  app.run(main)
