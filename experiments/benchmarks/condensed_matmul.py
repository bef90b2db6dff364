r"""Times products with condensed weights against dense and other sparse ones.

  python -m experiments.benchmarks.condensed_matmul

The masks consist of blocks of 1 x 16 outputs, chosen in the whole weight or
with the same number for every output (balanced), or have constant fan-in. Under
the mask of constant fan-in, all of these compute the same product: the dense
weight, the condensed one, `BCOO` and `BCSR` of `jax.experimental.sparse`, and
the CSR array of scipy, which runs outside of JAX on one core. `slimmed` layers
have lost 20% of their outputs, as SRigL's may; the others then read more
inputs, so that as many weights are kept.

Every product is compared with that of its dense weight before anything is
timed. `x dense` is the speed relative to `jnp.dot`; below 1 the dense product
is faster. Ratios are between medians of interleaved runs in one process.

Every product uses several weights in turns, more than a cache holds, as the
layers of a network do. BCOO is slow, so it has fewer repeats
(`--slow_repeats=0` leaves it out).

A layer of ViT-B/16, as in SRigL's paper (https://arxiv.org/abs/2305.02299), and
a square one:

  python -m experiments.benchmarks.condensed_matmul \
      --sizes=768x3072,2048x2048 --sparsities=0.9,0.95 --tokens=1,8,32 \
      --cache_mb=16
"""

from absl import app
from absl import flags

from experiments.benchmarks import condensed_layers
from experiments.benchmarks import timing

_SIZES = flags.DEFINE_list(
    'sizes', ['4096x4096'], 'Outputs x inputs of weights.')
_BLOCK = flags.DEFINE_integer('block', 16, 'Outputs of a block.')
_TOKENS = flags.DEFINE_list('tokens', ['1', '8', '32', '128'], 'Batch sizes.')
_SPARSITIES = flags.DEFINE_list(
    'sparsities', ['0.5', '0.8', '0.9', '0.95'], 'Fractions pruned.')
_CACHE = flags.DEFINE_integer(
    'cache_mb', 64, 'Megabytes of weights of a kind that are used in turns.')
_REPEATS = flags.DEFINE_integer('repeats', 11, 'Medians are of this many runs.')
_SLOW_REPEATS = flags.DEFINE_integer(
    'slow_repeats', 2, 'The same for BCOO; 0 leaves it out.')
_GRADIENTS = flags.DEFINE_bool(
    'gradients', False,
    'Times a product with its gradients to inputs and values instead.')


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe())
  print(f'float32, blocks of 1 x {_BLOCK.value}'
        f'{", with gradients" * _GRADIENTS.value}\n')
  table = []
  for size in _SIZES.value:
    outputs, inputs = map(int, size.split('x'))
    for sparsity in map(float, _SPARSITIES.value):
      made = condensed_layers.kinds(
          outputs, inputs, sparsity, block=_BLOCK.value,
          megabytes=_CACHE.value, slow=bool(_SLOW_REPEATS.value))
      for tokens in map(int, _TOKENS.value):
        table += [[f'{outputs} x {inputs}', f'{100 * sparsity:g}%', *row]
                  for row in condensed_layers.rows(
                      made, tokens, repeats=_REPEATS.value,
                      slow_repeats=_SLOW_REPEATS.value,
                      gradients=_GRADIENTS.value)]
  timing.print_table(['outputs x inputs', 'pruned', 'tokens', 'weight', 'ms',
                      'x dense', 'bytes / dense'], table)


if __name__ == '__main__':
  app.run(main)
