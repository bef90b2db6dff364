"""A recommender: numbers and ids in, two logits out."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import dataset

_TILE = 16


class DLRM(nnx.Module):
  """A model of products of embeddings, https://arxiv.org/abs/1906.00091.

  A first MLP maps the numbers to one more vector. A second MLP reads this
  vector and the products of all pairs of vectors. The inputs of both are padded
  with zeros to a multiple of 16, so that N:M groups and blocks tile. One table
  holds the rows of the ids of all features, so one gather is enough instead of
  26.

  With 13 numbers and 26 ids, 129,024 weights may be sparse.
  """

  TASK = dataset.RECOMMENDATION
  # Embeddings stay dense because a batch reads few of their rows. The head
  # stays dense because no pattern tiles its two logits.
  SPARSE = r'(bottom|top)/\d+/kernel'

  def __init__(self, shape: tuple[int, ...], classes: int, *,
               cardinalities: tuple[int, ...], width: int = 16, depth: int = 2,
               rngs: nnx.Rngs):
    """Makes the arrays.

    Args:
      shape: the number of features.
      classes: 2, to click or not to click.
      cardinalities: the number of ids of each of the last features.
      width: the width of an embedding.
      depth: the number of hidden layers above the products. The first has 16
        times the width, each further one half as many units.
      rngs: for the new weights.
    """
    self.starts = tuple(int(n) for n in np.cumsum([0, *cardinalities[:-1]]))
    vectors = len(cardinalities) + 1
    numbers = shape[0] - len(cardinalities)
    self.embedding = nnx.Embed(sum(cardinalities), width, rngs=rngs)
    self.bottom = _mlp([_tiled(numbers), 4 * width, width], rngs)
    widths = [16 * width // 2**i for i in range(depth)]
    self.top = _mlp(
        [_tiled(width + vectors * (vectors - 1) // 2), *widths], rngs)
    self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    numbers, ids = jnp.split(x, [x.shape[1] - len(self.starts)], axis=1)
    rows = ids.astype(jnp.int32) + jnp.array(self.starts)[None]
    numbers = _apply(self.bottom, numbers)
    vectors = jnp.concatenate(
        [numbers[:, None], self.embedding(rows)], axis=1)
    products = jnp.einsum('nid,njd->nij', vectors, vectors)
    # Each pair once, by slices: on meshes of two axes XLA gets the gradient of
    # products[:, i, j] wrong (jaxlib 0.10.2).
    pairs = [products[:, i, :i] for i in range(1, vectors.shape[1])]
    return self.head(_apply(
        self.top, jnp.concatenate([numbers, *pairs], axis=1)))


def _tiled(size):
  return -(-max(size, 1) // _TILE) * _TILE


def _mlp(widths, rngs):
  return nnx.List([
      nnx.Linear(*pair, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
      for pair in zip(widths, widths[1:])])


def _apply(layers, x):
  """Pads `[N, D]` with zeros, applies the layers and a ReLU after each."""
  missing = layers[0].kernel.shape[0] - x.shape[1]
  x = jnp.pad(x, ((0, 0), (0, missing)))
  for layer in layers:
    x = nnx.relu(layer(x))
  return x
