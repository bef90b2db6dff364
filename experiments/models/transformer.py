"""The block that all transformers here are made of.

Query, key and value come from one `[in, out]` kernel, so that every kernel of
a block has its contraction axis at -2, where N:M patterns run.
"""

from flax import nnx
import jax
import jax.numpy as jnp

_HEADS = 4

# The feed-forward kernels hold two thirds of a block. Attention, embeddings,
# norms and head stay dense, as in most work on N:M transformers.
SPARSE = r'blocks/\d+/mlp_(in|out)/kernel'


class Block(nnx.Module):
  """Self-attention and a feed-forward layer, each after a norm."""

  def __init__(self, width: int, *, causal: bool = False, rngs: nnx.Rngs):
    if width % _HEADS:
      raise ValueError(f'config.width must be a multiple of {_HEADS}, the '
                       f'number of heads, got {width}')
    self.causal = causal
    self.head_dim = width // _HEADS  # Their number is in the arrays' shapes.
    self.norm1 = nnx.LayerNorm(width, rngs=rngs)
    self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
    self.out = nnx.Linear(width, width, rngs=rngs)
    self.norm2 = nnx.LayerNorm(width, rngs=rngs)
    self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
    self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x: jax.Array, *, lengths: jax.Array | None = None
               ) -> jax.Array:
    """Maps `[N, T, width]` to the same.

    Args:
      x: tokens.
      lengths: `[N]`, how many tokens to attend to; `None` is all.
    """
    n, tokens, _ = x.shape
    qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, -1, self.head_dim)
    y = jax.nn.dot_product_attention(
        *jnp.moveaxis(qkv, 2, 0), is_causal=self.causal,
        key_value_seq_lengths=lengths)
    x = x + self.out(y.reshape(n, tokens, -1))
    return x + self.mlp_out(nnx.gelu(self.mlp_in(self.norm2(x))))


def positions(tokens: int, width: int, *, rngs: nnx.Rngs) -> nnx.Param:
  """Returns `[1, tokens, width]`, to be learned and added to the tokens."""
  return nnx.Param(
      0.2 * jax.random.normal(rngs.params(), (1, tokens, width)))
