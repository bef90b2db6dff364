"""Small copies of public models, in the style of their authors.

Their layers are Flax's in part and their own in part, which is what matters to
packing: an `Einsum` of Gemma and Qwen in NNX, and GPT-2's `Conv1D` in Linen,
whose kernel is `[out, in]`.
"""

import math

from flax import linen
from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

VOCABULARY, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD = 24, 16, 32, 4, 2, 8


class Einsum(nnx.Module):
  """A product that is written as an equation."""

  def __init__(self, equation, shape, *, rngs):
    self.equation = equation
    self.w = nnx.Param(nnx.initializers.normal()(rngs.params(), shape))

  def __call__(self, x):
    return jnp.einsum(self.equation, x, self.w[...])


class Embedder(nnx.Module):
  """A table that is the output head, too."""

  def __init__(self, *, rngs):
    self.table = nnx.Param(
        nnx.initializers.normal()(rngs.params(), (VOCABULARY, WIDTH)))

  def encode(self, tokens):
    return jnp.take(self.table[...], tokens, 0) * math.sqrt(WIDTH)

  def decode(self, x):
    return x @ self.table[...].T


class RMSNorm(nnx.Module):

  def __init__(self, size, *, rngs):
    self.scale = nnx.Param(nnx.initializers.ones_init()(rngs.params(), size))

  def __call__(self, x):
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6
                         ) * self.scale[...]


def _rope(x):
  """`[B, T, heads, head]`, rotated by place."""
  half = x.shape[-1] // 2
  angle = jnp.arange(x.shape[1], dtype=x.dtype)[:, None] * 100.**(
      -jnp.arange(half, dtype=x.dtype) / half)
  sin, cos = jnp.sin(angle)[None, :, None], jnp.cos(angle)[None, :, None]
  a, b = jnp.split(x, 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attend(q, k, v):
  """Causal, of grouped queries: `[B, T, heads, head]` of each."""
  *_, t, heads, head = q.shape
  q = q.reshape(q.shape[0], t, k.shape[2], heads // k.shape[2], head)
  scores = jnp.einsum('btkgh,bskh->bkgts', q, k) / math.sqrt(head)
  scores = jnp.where(jnp.tri(t, dtype=bool), scores, -1e9)
  y = jnp.einsum('bkgts,bskh->btkgh', jax.nn.softmax(scores), v)
  return y.reshape(y.shape[0], t, heads, head)


class _Attention(nnx.Module):

  def __init__(self, qkv_in_one, *, rngs):
    einsum = lambda *args: Einsum(*args, rngs=rngs)
    self.q_proj = einsum('btd,dnh->btnh', (WIDTH, HEADS, HEAD))
    if qkv_in_one:  # Gemma: [2, heads, in, head].
      self.kv_einsum = einsum('bsd,ckdh->cbskh', (2, KV_HEADS, WIDTH, HEAD))
    else:  # Qwen.
      self.k_proj = einsum('bsd,dkh->bskh', (WIDTH, KV_HEADS, HEAD))
      self.v_proj = einsum('bsd,dkh->bskh', (WIDTH, KV_HEADS, HEAD))
    self.o_proj = einsum('btnh,nhd->btd', (HEADS, HEAD, WIDTH))
    self.q_norm = RMSNorm(HEAD, rngs=rngs)
    self.k_norm = RMSNorm(HEAD, rngs=rngs)

  def __call__(self, x):
    k, v = (self.kv_einsum(x) if hasattr(self, 'kv_einsum') else
            (self.k_proj(x), self.v_proj(x)))
    return self.o_proj(_attend(
        _rope(self.q_norm(self.q_proj(x))), _rope(self.k_norm(k)), v))


class _MLP(nnx.Module):

  def __init__(self, *, rngs):
    linear = lambda i, o: nnx.Linear(i, o, use_bias=False, rngs=rngs)
    self.gate_proj = linear(WIDTH, HIDDEN)
    self.up_proj = linear(WIDTH, HIDDEN)
    self.down_proj = linear(HIDDEN, WIDTH)

  def __call__(self, x):
    return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nnx.Module):

  def __init__(self, qkv_in_one, *, rngs):
    self.input_layernorm = RMSNorm(WIDTH, rngs=rngs)
    self.attn = _Attention(qkv_in_one, rngs=rngs)
    self.post_attention_layernorm = RMSNorm(WIDTH, rngs=rngs)
    self.mlp = _MLP(rngs=rngs)

  def __call__(self, x):
    x = x + self.attn(self.input_layernorm(x))
    return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nnx.Module):
  """Qwen 3, and Gemma 3 with `tied`, whose keys and values are one kernel."""

  def __init__(self, *, tied, rngs, layers=2):
    self.embedder = Embedder(rngs=rngs)
    self.layers = nnx.List([_Layer(tied, rngs=rngs) for _ in range(layers)])
    self.final_norm = RMSNorm(WIDTH, rngs=rngs)
    self.lm_head = None if tied else Einsum(
        'btd,dv->btv', (WIDTH, VOCABULARY), rngs=rngs)

  def __call__(self, tokens):
    x = self.embedder.encode(tokens)
    for layer in self.layers:
      x = layer(x)
    x = self.final_norm(x)
    return self.lm_head(x) if self.lm_head else self.embedder.decode(x)


class Conv1D(linen.Module):
  """A dense layer whose kernel is `[out, in]`."""
  features: int

  @linen.compact
  def __call__(self, x):
    kernel = self.param('kernel', linen.initializers.normal(),
                        (self.features, x.shape[-1]))
    bias = self.param('bias', linen.initializers.zeros, (self.features,))
    return lax.dot_general(
        x, kernel.transpose(), (((x.ndim - 1,), (0,)), ((), ()))) + bias


class _Block(linen.Module):

  @linen.compact
  def __call__(self, x):
    split = lambda y: y.reshape(*y.shape[:2], HEADS, -1)
    qkv = Conv1D(3 * WIDTH, name='c_attn')(linen.LayerNorm(name='ln_1')(x))
    y = _attend(*map(split, jnp.split(qkv, 3, -1)))
    x = x + Conv1D(WIDTH, name='c_proj')(y.reshape(x.shape))
    y = Conv1D(HIDDEN, name='c_fc')(linen.LayerNorm(name='ln_2')(x))
    return x + Conv1D(WIDTH, name='mlp_c_proj')(linen.gelu(y))


class GPT2(linen.Module):
  """GPT-2, whose head is Flax's `Dense`."""

  @linen.compact
  def __call__(self, tokens):
    x = linen.Embed(VOCABULARY, WIDTH, name='wte')(tokens)
    x = x + linen.Embed(16, WIDTH, name='wpe')(jnp.arange(tokens.shape[1]))
    for i in range(2):
      x = _Block(name=f'h_{i}')(x)
    x = linen.LayerNorm(name='ln_f')(x)
    return linen.Dense(VOCABULARY, use_bias=False, name='lm_head')(x)
