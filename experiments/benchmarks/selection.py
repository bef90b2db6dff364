"""Times the selection of masks against one pass over the weight.

  python -m experiments.benchmarks.selection

Prints ratios of times from one process:

- N:M selection on a 4096 x 4096 float32 weight, against a jitted `|w| > c`;
- transposable 2:4, against the product of scores with all 90 masks and argmax;
- 90% unstructured, against a full sort;
- a global threshold over a tree with the shapes of ResNet-50, against sorting
  the concatenated tree.
"""

import functools
import itertools

from absl import app
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
import jaxsparse


def resnet50_shapes() -> list[tuple[int, ...]]:
  """The kernels of ResNet-50 for ImageNet: 25.5 million weights."""
  shapes = [(7, 7, 3, 64)]
  inputs = 64
  for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
    for i in range(blocks):
      if i == 0:
        shapes.append((1, 1, inputs, 4 * width))
      shapes += [(1, 1, inputs, width), (3, 3, width, width),
                 (1, 1, width, 4 * width)]
      inputs = 4 * width
  return shapes + [(2048, 1000)]


def _weight(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).standard_normal(
      shape, np.float32))


def n_of_m() -> None:
  """Selections within groups, along the contraction axis and the other."""
  w = _weight((4096, 4096))
  floor = jax.jit(lambda w: jnp.abs(w) > 1.)
  functions = {'one pass': lambda: floor(w)}
  for n, m in ((2, 4), (4, 8), (1, 16), (1, 32), (1, 128), (4, 32), (8, 64),
               (16, 128)):
    for axis in (-2, -1):
      pattern = jaxsparse.nm(n, m, axis=axis)
      f = jax.jit(functools.partial(
          lambda p, w: jaxsparse.select(jnp.abs(w), p), pattern))
      functions[f'{n}:{m}, axis {axis}'] = functools.partial(f, w)
  times = timing.interleaved(functions)
  goals = {f'{p}, axis -2': '<= 8' for p in ('2:4', '4:8', '1:16')}
  goals |= {f'{p}, axis {axis}': '<= 6' for p in ('4:32', '8:64', '16:128')
            for axis in (-2, -1)}
  timing.print_table(
      ['4096 x 4096 f32', 'ms', 'x one pass', 'goal'],
      [[name, ms, ms / times['one pass'], goals.get(name, '')]
       for name, ms in times.items()])


def _by_argmax(w: jax.Array, rows: int = 64) -> jax.Array:
  """Transposable 2:4 by a product with all masks, some rows at a time."""
  masks = np.array(list(itertools.product((0, 1), repeat=16)), np.float32)
  lines = masks.reshape(-1, 4, 4)
  masks = masks[(lines.sum(1) == 2).all(1) & (lines.sum(2) == 2).all(1)]

  def some(w):
    tiles = w.reshape(rows // 4, 4, -1, 4).swapaxes(1, 2)
    best = jnp.argmax(jnp.dot(
        tiles.reshape(-1, 16), masks.T, precision='highest'), -1)
    return (jnp.asarray(masks, bool)[best].reshape(tiles.shape).swapaxes(1, 2)
            .reshape(w.shape))
  parts = jax.lax.map(some, jnp.abs(w).reshape(-1, rows, w.shape[1]))
  return parts.reshape(w.shape)


def transposable() -> None:
  """2:4 along both axes, finished and while a schedule is under way."""
  w = _weight((4096, 4096))
  pattern = jaxsparse.nm(2, 4, transposable=True)
  under_way = jax.jit(lambda w, s: jaxsparse.select(jnp.abs(w), pattern, s))

  def final(pattern):
    f = jax.jit(lambda w: jaxsparse.select(jnp.abs(w), pattern))
    return functools.partial(f, w)
  functions = {
      'scores times masks, argmax': functools.partial(jax.jit(_by_argmax), w),
      str(pattern): final(pattern),
      'with a traced sparsity, 8 of 16': lambda: under_way(w, jnp.float32(.5)),
      '10 of 16': lambda: under_way(w, jnp.float32(6 / 16)),
      'nm(2, 4)': final(jaxsparse.nm(2, 4))}
  times = timing.interleaved(functions, repeats=7)
  kept = {name: float(jnp.sum(jnp.abs(w), where=f()))
          for name, f in functions.items()}
  timing.print_table(
      ['4096 x 4096 f32', 'ms', 'x faster than argmax', 'goal',
       'of the magnitude kept by nm(2, 4)'],
      [[name, ms, times['scores times masks, argmax'] / ms,
        '>= 5.7, <= 80 ms' if name == str(pattern) else '',
        f'{kept[name] / kept["nm(2, 4)"]:.3f}']
       for name, ms in times.items()])


def _sorted_mask(x: jax.Array, kept: int) -> jax.Array:
  """The same mask by a full stable sort."""
  order = jnp.argsort(-x, stable=True)
  return jnp.zeros(x.shape, bool).at[order[:kept]].set(True)


def unstructured() -> None:
  """90% of one weight, against sorting its values only (no mask yet)."""
  w = _weight((4096, 4096))
  kept = round((1 - 0.9) * w.size)
  select = jax.jit(lambda w: jaxsparse.select(
      jnp.abs(w), jaxsparse.unstructured(), 0.9))
  times = timing.interleaved({
      'select 90%': lambda: select(w),
      'jnp.sort of all values': functools.partial(
          jax.jit(lambda w: jnp.sort(jnp.abs(w).reshape(-1))), w),
  }, repeats=5)
  exact = jax.jit(lambda w: jnp.array_equal(
      select(w).reshape(-1), _sorted_mask(jnp.abs(w).reshape(-1), kept)))(w)
  ratio = times['jnp.sort of all values'] / times['select 90%']
  timing.print_table(
      ['4096 x 4096 f32', 'ms', 'x faster than sort', 'goal', 'same mask'],
      [['select 90%', times['select 90%'], ratio, '>= 40', bool(exact)],
       ['jnp.sort of all values', times['jnp.sort of all values'], 1., '',
        '']])


def global_threshold() -> None:
  """80% of a ResNet-50 by one threshold, against one sort of everything."""
  params = {f'{i:02}': _weight(s, i) for i, s in enumerate(resnet50_shapes())}
  rule = jaxsparse.prune(
      {'.*': jaxsparse.unstructured()},
      distribution=jaxsparse.global_threshold(0.8))
  ours = jax.jit(lambda p: rule.init(p).masks)

  def by_sorting(params):
    flat = jnp.concatenate([jnp.abs(w).reshape(-1) for w in params.values()])
    cut = jnp.sort(flat)[flat.size - round((1 - 0.8) * flat.size)]
    return {name: jnp.abs(w) >= cut for name, w in params.items()}
  theirs = jax.jit(by_sorting)
  times = timing.interleaved({
      'global_threshold(0.8)': lambda: ours(params),
      'sort of the concatenation': lambda: theirs(params)}, repeats=5)
  size = sum(w.size for w in params.values())
  kept = sum(int(m.sum()) for m in ours(params).values())
  rows = []
  for (name, ms), f in zip(times.items(), (ours, theirs)):
    peak = f.lower(params).compile().memory_analysis().temp_size_in_bytes
    rows.append([name, ms, times['sort of the concatenation'] / ms,
                 '>= 40' if f is ours else '', 1e-6 * peak])
  timing.print_table(
      [f'ResNet-50, {size / 1e6:.1f}M weights', 'ms', 'x faster than sort',
       'goal', 'temporaries, MB'], rows)
  print(f'kept {kept:,} of {size:,}; asked for {round((1 - 0.8) * size):,}')


def main(argv: list[str]) -> None:
  del argv
  print(timing.describe())
  for benchmark in (n_of_m, transposable, unstructured, global_threshold):
    print()
    benchmark()


if __name__ == '__main__':
  app.run(main)
