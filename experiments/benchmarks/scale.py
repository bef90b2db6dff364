"""Compiles, and does not run, a sparse train step of a model of 8B weights.

  python -m experiments.benchmarks.scale --devices=8

The model has the kernels of a Llama with 8.03 billion float32 weights, with its
layers stacked (as under `lax.scan`) or separate, over a mesh of virtual
devices. Prints the seconds to trace and compile `tx.init` and the update, and
the bytes per device, with those of Adam for comparison.
"""

from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import timing
from experiments.benchmarks import train_step
import jaxsparse
from jaxsparse import methods
from jaxsparse import schedules

_DEVICES = flags.DEFINE_integer('devices', 8, 'The number of virtual devices.')
_METHODS = flags.DEFINE_multi_enum(
    'method', ['sr_ste', 'uniform', 'global'],
    ['sr_ste', 'uniform', 'global', 'rigl'], 'Methods to compile beside Adam.')
_LAYERS = flags.DEFINE_multi_enum(
    'layers', ['stacked', 'unstacked'], ['stacked', 'unstacked'],
    'How the 32 layers are held.')

_FREE = {'.*kernel': jaxsparse.unstructured(), '.*': None}


def _shapes(stacked: bool) -> dict[str, Any]:
  """The arrays of a Llama with 32 layers of width 4096."""
  layer = {
      'query': {'kernel': (4096, 4096)}, 'key': {'kernel': (4096, 1024)},
      'value': {'kernel': (4096, 1024)}, 'out': {'kernel': (4096, 4096)},
      'gate': {'kernel': (4096, 14336)}, 'up': {'kernel': (4096, 14336)},
      'down': {'kernel': (14336, 4096)},
      'norms': {'scale': (2, 4096)}}
  is_shape = lambda x: isinstance(x, tuple)
  layers = (jax.tree.map(lambda s: (32, *s), layer, is_leaf=is_shape) if stacked
            else {f'{i:02}': layer for i in range(32)})
  return {'layers': layers, 'embedding': (128256, 4096),
          'head': {'kernel': (4096, 128256)}}


def _params(stacked: bool, mesh: jax.sharding.Mesh) -> Any:
  """Shapes, split along the last axis."""
  def place(shape):
    spec = jax.P(*(None,) * (len(shape) - 1), 'model')
    return jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec))
  return jax.tree.map(
      place, _shapes(stacked), is_leaf=lambda x: isinstance(x, tuple))


def _method(name: str) -> Any:
  when = schedules.every(100)
  return {
      'sr_ste': lambda: methods.sr_ste(
          {'.*kernel': jaxsparse.nm(2, 4), '.*': None}, 10_000),
      'uniform': lambda: jaxsparse.prune(_FREE, sparsity=0.9, when=when),
      'global': lambda: jaxsparse.prune(
          _FREE, distribution=jaxsparse.global_threshold(0.9), when=when),
      'rigl': lambda: methods.rigl(_FREE, 0.9, 10_000, replace_step=False),
  }[name]()


def _row(tx: optax.GradientTransformation, params: Any) -> list[Any]:
  """Seconds, and gigabytes per device of state and temporaries."""
  places = jaxsparse.state_shardings(tx, params)
  init, made = timing.compiled(tx.init, params, out_shardings=places)
  state = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      jax.eval_shape(tx.init, params), places)
  update, step = timing.compiled(
      train_step.after_backward(tx), params, state, params,
      donate_argnums=(0, 1))
  return [init, update, 1e-9 * made.memory_analysis().output_size_in_bytes,
          1e-9 * step.memory_analysis().temp_size_in_bytes]


def main(argv: list[str]) -> None:
  del argv
  jax.config.update('jax_num_cpu_devices', _DEVICES.value)
  jax.config.update('jax_enable_compilation_cache', False)
  print(timing.describe(), '\n')
  mesh = jax.make_mesh((_DEVICES.value,), ('model',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  adam, rows = optax.adam(1e-3), []
  for layers in _LAYERS.value:
    params = _params(layers == 'stacked', mesh)
    size = sum(w.size for w in jax.tree.leaves(params))
    rows.append([layers, 'plain Adam', *_row(adam, params)])
    for name in _METHODS.value:
      tx = jaxsparse.sparsify(adam, _method(name))
      rows.append([layers, name, *_row(tx, params)])
  timing.print_table(
      [f'{size / 1e9:.2f}B weights, {4e-9 * size / _DEVICES.value:.2f} GB a '
       'device', 'method', 'init, s', 'update, s', 'state, GB',
       'temporaries, GB'], rows)


if __name__ == '__main__':
  app.run(main)
