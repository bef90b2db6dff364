"""Transformers over bytes: a language model and classifiers of texts."""

from flax import nnx
import jax
import jax.numpy as jnp

from experiments.data import dataset
from experiments.models import transformer

_BYTES = 256
_PATCH = 4  # Bytes; a convolution reads twice as many.


class LM(nnx.Module):
  """A causal model that maps bytes `[N, T]` to next-byte logits `[N, T, 256]`.
  """

  TASK = dataset.NEXT_BYTE
  SPARSE = transformer.SPARSE

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 64,
               depth: int = 2, rngs: nnx.Rngs):
    self.embedding = nnx.Embed(_BYTES, width, rngs=rngs)
    self.positions = transformer.positions(shape[0], width, rngs=rngs)
    self.blocks = nnx.List([
        transformer.Block(width, causal=True, rngs=rngs)
        for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.embedding(x.astype(jnp.int32)) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x))


class TextClassifier(nnx.Module):
  """Maps texts `[N, T]`, padded with zeros at the end, to logits of classes."""

  TASK = dataset.TEXT
  SPARSE = transformer.SPARSE

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 64,
               depth: int = 2, rngs: nnx.Rngs):
    self.embedding = nnx.Embed(_BYTES, width, rngs=rngs)
    self.positions = transformer.positions(shape[0], width, rngs=rngs)
    self.blocks = nnx.List([
        transformer.Block(width, rngs=rngs) for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    lengths = jnp.maximum(jnp.count_nonzero(x, axis=1), 1)
    inside = jnp.arange(x.shape[1]) < lengths[:, None]
    x = self.embedding(x.astype(jnp.int32)) + self.positions[...]
    for block in self.blocks:
      x = block(x, lengths=lengths)
    total = jnp.sum(self.norm(x) * inside[..., None], axis=1)
    return self.head(total / lengths[:, None])


class PatchClassifier(nnx.Module):
  """Maps texts `[N, T]` of one length to logits of classes.

  A convolution makes one token of every four bytes and their neighbours, as in
  CANINE, https://arxiv.org/abs/2103.06874. Attention therefore compares a
  quarter as many tokens, and spelling does not depend on it.
  """

  TASK = dataset.TEXT
  # Attention, too, as in Neural Compressor's examples; not the convolution.
  SPARSE = r'blocks/\d+/.*kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *, width: int = 64,
               depth: int = 2, rngs: nnx.Rngs):
    self.embedding = nnx.Embed(_BYTES, width, rngs=rngs)
    self.patches = nnx.Conv(
        width, width, (2 * _PATCH,), strides=_PATCH, rngs=rngs)
    self.positions = transformer.positions(
        -(-shape[0] // _PATCH), width, rngs=rngs)
    self.blocks = nnx.List([
        transformer.Block(width, rngs=rngs) for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.patches(self.embedding(x.astype(jnp.int32)))
    x = x + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x).mean(1))
