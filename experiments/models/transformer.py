"""The block of all transformers of the experiments.

Query, key and value come from one `[in, out]` kernel. Every kernel of a block
therefore has its contraction axis at -2, the axis of N:M patterns.
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
    self.head_dim = width // _HEADS  # The shapes of arrays give the number.
    self.norm1 = nnx.LayerNorm(width, rngs=rngs)
    self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
    self.out = nnx.Linear(width, width, rngs=rngs)
    self.norm2 = nnx.LayerNorm(width, rngs=rngs)
    self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
    self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x: jax.Array, *, lengths: jax.Array | None = None
               ) -> jax.Array:
    """Maps `[N, T, width]` to the same shape.

    Args:
      x: the tokens.
      lengths: `[N]`, the number of tokens to attend to. `None` means all.
    """
    n, tokens, _ = x.shape
    qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, -1, self.head_dim)
    y = jax.nn.dot_product_attention(
        *jnp.moveaxis(qkv, 2, 0), is_causal=self.causal,
        key_value_seq_lengths=lengths)
    x = x + self.out(y.reshape(n, tokens, -1))
    return x + self.mlp_out(nnx.gelu(self.mlp_in(self.norm2(x))))


def positions(tokens: int, width: int, *, rngs: nnx.Rngs) -> nnx.Param:
  """Returns position embeddings `[1, tokens, width]` to add to the tokens."""
  return nnx.Param(
      0.2 * jax.random.normal(rngs.params(), (1, tokens, width)))
