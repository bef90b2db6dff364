r"""What makes a whole network faster on this machine, and what does not.

  python -m experiments.benchmarks.inference

Times a forward pass of three networks with random weights: an MLP, transformer
blocks, and a ResNet-20. Each is timed dense and in every form that fits it:

* masked: 90% of the weights are zeros, stored as any other weight;
* slimmed: half of the removable units cut out, of the ResNet's channels also to
  multiples of 8;
* condensed: 90% pruned, in 1 x 16 blocks, or with one fan-in for all outputs;
* packed: 2:4.

Numbers are times of the dense network over those of the form: above 1 the form
is faster. They are medians of runs in turns, in one process. Batches are of
images, or of sequences of `--context` tokens. Outputs of every form but the
slimmed ones are compared with those of the same zeros stored densely.
"""

from typing import Any, Callable, NamedTuple

from absl import app
from absl import flags
import jax
import numpy as np

from experiments import models
from experiments.benchmarks import residual
from experiments.benchmarks import timing
from experiments.benchmarks import transformer
import jaxsparse
from jaxsparse import packed

_NETWORKS = flags.DEFINE_multi_enum(
    'networks', ['mlp', 'transformer', 'resnet20'],
    ['mlp', 'transformer', 'resnet20'], 'What to time.')
_BATCHES = flags.DEFINE_list('batches', ['1', '8', '32'], 'Examples at once.')
_WIDTH = flags.DEFINE_integer(
    'width', 2_048, 'Of the MLP; the transformer has a quarter of it.',
    lower_bound=64)
_DEPTH = flags.DEFINE_integer('depth', 4, 'Blocks, or layers of the MLP.',
                              lower_bound=2)
_CONTEXT = flags.DEFINE_integer('context', 16, 'Tokens of a sequence.',
                                lower_bound=1)
_IMAGE = flags.DEFINE_integer('image_size', 28, 'Pixels a side.',
                              lower_bound=4)
_DATA = flags.DEFINE_string('data', None, 'Also writes the table as JSONL.')
_REPEATS = flags.DEFINE_integer('repeats', 21, 'Of each form.', lower_bound=1)

_SPARSITY = 0.9
_BLOCK = (1, 16)


class Network(NamedTuple):
  """A function and the forms of its weights that are timed.

  Attributes:
    apply: weights of any form and inputs to outputs.
    forms: weights by name, 'dense' among them.
    same: dense weights with the outputs of a form, by the form's name.
    inputs: makes a batch of a size.
  """
  apply: Callable[[Any, jax.Array], jax.Array]
  forms: dict[str, Any]
  same: dict[str, Any]
  inputs: Callable[[int], jax.Array]


def product(x: jax.Array, w: Any) -> jax.Array:
  """The product with a weight of any form."""
  return x @ w if isinstance(w, jax.Array) else jaxsparse.matmul(x, w)


def mlp(width: int, depth: int) -> Network:
  """Dense layers of one width, with ReLU between them."""
  keys = jax.random.split(jax.random.key(0), depth)
  params = {f'layer_{i}': jax.random.normal(key, (width, width))
            * (2 / width)**.5 for i, key in enumerate(keys)}

  def apply(params, x):
    for i in range(depth):
      x = jax.nn.relu(product(x, params[f'layer_{i}']))
    return x
  return _of_products(apply, params,
                      lambda batch: _normal((batch, width)))


def blocks(width: int, depth: int, tokens: int) -> Network:
  """Attention and MLPs over sequences."""
  _, params, _ = transformer.model(width, depth, scanned=False)

  def apply(params, x):
    for layer in params:
      x = transformer.block(x, layer, product)
    return x
  return _of_products(apply, params,
                      lambda batch: _normal((batch, tokens, width)))


def resnet20(image_size: int) -> Network:
  """A ResNet-20 of the widths 16, 32 and 64, in evaluation mode."""
  inputs = lambda batch: _normal((batch, image_size, image_size, 1))
  apply, variables = residual.model(inputs(1).shape[1:])
  ties = jaxsparse.infer_ties(apply, variables, inputs(1))
  masked = _pruned(variables, {
      models.BatchNormResNet.SPARSE: jaxsparse.unstructured(_SPARSITY),
      '.*': None})
  slimmed = {f'slimmed to {"-".join(map(str, left))}': residual.cut(
      variables, ties, left) for left in ((9, 19, 38), (8, 16, 32))}
  return Network(apply, {'dense': variables, 'masked, 90%': masked, **slimmed},
                 {}, inputs)


def _of_products(apply, params, inputs):
  """A network all of whose weights are kernels of products."""
  ties = jaxsparse.infer_ties(apply, params, inputs(1))
  half = {tie.name: np.arange(tie.size) < tie.size // 2
          for tie in jaxsparse.units.neurons(ties)}
  blocks_ = jaxsparse.block(_BLOCK, balanced=True, sparsity=_SPARSITY)
  stored = {
      'condensed, 1 x 16 blocks, 90%': (lambda w: blocks_, packed.condense),
      'condensed, constant fan-in, 90%': (_fan_in, packed.condense),
      'packed, 2:4': (lambda w: jaxsparse.nm(2, 4),
                      lambda w, _: packed.pack(w))}

  def zeros(pattern_of):
    return jax.tree.map(lambda w: _pruned(w, {'.*': pattern_of(w)}), params)

  def store(pattern_of, store_one):
    return jax.tree.map(lambda w: store_one(w, pattern_of(w)),
                        zeros(pattern_of))
  free = jaxsparse.unstructured(_SPARSITY)
  return Network(apply, {
      'dense': params, 'masked, 90%': zeros(lambda w: free),
      'slimmed, half of the units': jaxsparse.slim(params, ties, half),
      **{name: store(*how) for name, how in stored.items()}},
                 {name: zeros(how[0]) for name, how in stored.items()}, inputs)


def _fan_in(w):
  inputs = w.shape[0]
  return jaxsparse.nm(round((1 - _SPARSITY) * inputs), inputs)


def _pruned(params, patterns):
  masks = jax.jit(jaxsparse.prune(patterns).init)(params).masks
  return jaxsparse.apply_masks(params, masks)


def _normal(shape):
  return jax.random.normal(jax.random.key(1), shape)


def rows(name: str, network: Network, batches: list[int], repeats: int
         ) -> list[list[Any]]:
  """The rows of one network: a form's speed by batch, and its memory.

  Raises:
    ValueError: if a form computes something else than its zeros.
  """
  forms = {
      name: timing.Form(network.apply, weights, timing.Form(
          network.apply, network.same[name]) if name in network.same else None)
      for name, weights in network.forms.items()}
  times = timing.forms(forms, network.inputs, batches, repeats)
  dense = times['dense']
  return [[name, form,
           *(f'{ms:.2f} ms' if form == 'dense' else of / ms
             for ms, of in zip(times[form], dense)),
           forms[form].nbytes / forms['dense'].nbytes] for form in forms]


def main(argv: list[str]) -> None:
  del argv
  batches = [int(batch) for batch in _BATCHES.value]
  make = {
      'mlp': lambda: mlp(_WIDTH.value, _DEPTH.value),
      'transformer': lambda: blocks(_WIDTH.value // 4, _DEPTH.value,
                                    _CONTEXT.value),
      'resnet20': lambda: resnet20(_IMAGE.value)}
  timing.report(
      f'{timing.describe()}; MLP of {_DEPTH.value} layers of {_WIDTH.value}, '
      f'{_DEPTH.value} blocks of width {_WIDTH.value // 4} over '
      f'{_CONTEXT.value} tokens, ResNet-20 on {_IMAGE.value} pixels',
      ['network', 'form', *(f'batch {batch}' for batch in batches),
       'bytes / dense'],
      (row for name in _NETWORKS.value
       for row in rows(name, make[name](), batches, _REPEATS.value)),
      data=_DATA.value)


if __name__ == '__main__':
  app.run(main)
