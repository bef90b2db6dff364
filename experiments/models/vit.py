"""A small vision transformer over 2x2 patches.

Query, key and value come from one `[in, out]` kernel, so that every kernel of
a block has its contraction axis at -2, where N:M patterns run.
"""

from flax import nnx
import jax
import jax.numpy as jnp

_PATCH = 2
_TOKENS = (8 // _PATCH)**2
_HEADS = 4


class Block(nnx.Module):
  """Self-attention and a feed-forward layer, each after a norm."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    self.norm1 = nnx.LayerNorm(width, rngs=rngs)
    self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
    self.out = nnx.Linear(width, width, rngs=rngs)
    self.norm2 = nnx.LayerNorm(width, rngs=rngs)
    self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
    self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    n, tokens, width = x.shape
    qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, _HEADS, -1)
    y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
    x = x + self.out(y.reshape(n, tokens, width))
    return x + self.mlp_out(nnx.gelu(self.mlp_in(self.norm2(x))))


class ViT(nnx.Module):
  """Two blocks on 16 tokens, `width` wide."""

  # The feed-forward kernels hold two thirds of a block. Attention, patches,
  # positions, norms and head stay dense, as in most work on N:M transformers.
  SPARSE = r'blocks/\d+/mlp_(in|out)/kernel'

  def __init__(self, *, width: int = 32, rngs: nnx.Rngs):
    self.patches = nnx.Conv(1, width, (_PATCH, _PATCH), strides=_PATCH,
                            rngs=rngs)
    self.positions = nnx.Param(
        0.2 * jax.random.normal(rngs.params(), (1, _TOKENS, width)))
    self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(2)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.patches(x)
    x = x.reshape(len(x), _TOKENS, -1) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x).mean(1))
