r"""Times networks of several widths: fewer FLOPs are not always less time.

  python -m experiments.benchmarks.widths

A ResNet-20 of widths 16-32-64 is cut to 9-19-38, the result of pruning without
a multiple; to 8-16-32, the result with `multiple=8`; and to 16-24-40, the
result of `alive(multiple=8)`, which rounds up. Times of a forward pass and of
its gradient are medians of interleaved runs in one process, relative to those
of the full network.
"""

import functools

from absl import app
from absl import flags
import jax
import jax.numpy as jnp

from experiments.benchmarks import residual
from experiments.benchmarks import timing
import jaxsparse

_BATCH = flags.DEFINE_integer('batch', 32, 'Images at once.', lower_bound=1)
_SIZE = flags.DEFINE_integer('image_size', 32, 'Pixels a side.', lower_bound=4)
_REPEATS = flags.DEFINE_integer('repeats', 21, 'Of each network.',
                                lower_bound=1)
_WIDTHS = (residual.WIDTHS, (16, 24, 40), (9, 19, 38), (8, 16, 32))


def main(argv: list[str]) -> None:
  del argv
  print(f'{timing.describe()}, batch {_BATCH.value}, {_SIZE.value} pixels\n')
  images = jax.random.normal(
      jax.random.key(0), (_BATCH.value, _SIZE.value, _SIZE.value, 3))
  apply, variables = residual.model(images.shape[1:])

  def loss(variables, images):
    return jnp.mean(apply(variables, images)**2)

  ties = jaxsparse.infer_ties(apply, variables, images[:1])
  networks = {'-'.join(map(str, widths)): residual.cut(variables, ties, widths)
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
