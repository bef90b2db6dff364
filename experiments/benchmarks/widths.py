r"""Times networks of several widths: fewer FLOPs are not always less time.

  python -m experiments.benchmarks.widths

A ResNet-20 of widths 16-32-64 is cut to 9-19-38, the result of pruning without
a multiple; to 8-16-32, the result with `multiple=8`; and to 16-24-40, the
result of `alive(multiple=8)`, which rounds up. Times of a forward pass and of
its gradient are medians of interleaved runs in one process, relative to those
of the full network.
"""

import functools
from typing import Any

from absl import app
from absl import flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments.benchmarks import timing
import jaxsparse

_BATCH = flags.DEFINE_integer('batch', 32, 'Images at once.', lower_bound=1)
_SIZE = flags.DEFINE_integer('image_size', 32, 'Pixels a side.', lower_bound=4)
_REPEATS = flags.DEFINE_integer('repeats', 21, 'Of each network.',
                                lower_bound=1)
_FULL = (16, 32, 64)
_WIDTHS = (_FULL, (16, 24, 40), (9, 19, 38), (8, 16, 32))


def cut(variables: Any, ties: jaxsparse.units.Ties, widths: tuple[int, ...]
        ) -> Any:
  """Returns the variables without all but the first units of each tie.

  Args:
    variables: the variables of the full network.
    ties: the ties of its channels.
    widths: the number of channels that each stage keeps.
  """
  kept = dict(zip(_FULL, widths))
  keep = {tie.name: np.arange(tie.size) < kept[tie.size]
          for tie in jaxsparse.units.neurons(ties)}
  return jaxsparse.slim(variables, ties, keep)


def main(argv: list[str]) -> None:
  del argv
  print(f'{timing.describe()}, batch {_BATCH.value}, {_SIZE.value} pixels\n')
  images = jax.random.normal(
      jax.random.key(0), (_BATCH.value, _SIZE.value, _SIZE.value, 3))
  model = models.BatchNormResNet((*images.shape[1:],), 10, depth=20,
                                 rngs=nnx.Rngs(0))
  model.eval()
  graphdef, variables = nnx.split(model)

  def apply(variables, images):
    return nnx.merge(graphdef, variables, copy=True)(images)

  def loss(variables, images):
    return jnp.mean(apply(variables, images)**2)

  ties = jaxsparse.infer_ties(apply, variables, images[:1])
  networks = {'-'.join(map(str, widths)): cut(variables, ties, widths)
              for widths in _WIDTHS}
  functions = {
      (pass_, name): functools.partial(
          timing.compiled(f, network, images)[1], network, images)
      for pass_, f in (('forward', apply), ('gradient', jax.grad(loss)))
      for name, network in networks.items()}
  times = timing.interleaved(functions, _REPEATS.value)
  flops = {name: jaxsparse.flops(apply, network, images).total
           for name, network in networks.items()}
  full, *_ = networks
  timing.print_table(
      ['widths', 'FLOPs left', 'forward, ms', 'of full', 'gradient, ms',
       'of full'],
      [[name, flops[name] / flops[full], *(
          number for pass_ in ('forward', 'gradient')
          for number in (times[pass_, name],
                         times[pass_, name] / times[pass_, full]))]
       for name in networks])


if __name__ == '__main__':
  app.run(main)
