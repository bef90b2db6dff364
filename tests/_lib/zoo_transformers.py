"""Transformers: encoders of flax and of the experiments, decoders by hand."""

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp

from experiments.models.lm import LM
from experiments.models.lm import TextClassifier
from experiments.models.vit import ViT
from tests._lib.zoo_case import Case
from tests._lib.zoo_case import case
from tests._lib.zoo_case import CONV
from tests._lib.zoo_case import data
from tests._lib.zoo_case import DENSE
from tests._lib.zoo_case import grid
from tests._lib.zoo_case import linen
from tests._lib.zoo_case import make
from tests._lib.zoo_case import nnx_module
from tests._lib.zoo_case import tokens
from tests._lib.zoo_case import units
from tests._lib.zoo_case import weights
from tests._lib.zoo_case import WHOLE

HEADS, HEAD = 4, 3  # Of the experiments' block, made 12 wide.


def block_ties(block):
  """What is free inside a block of `experiments.models.transformer`."""
  qkv, out = grid(3, HEADS, HEAD), grid(HEADS, HEAD)
  made = f'{block}/qkv/kernel:1 {block}/qkv/bias:0'
  read = f'{block}/out/kernel:0'
  return [
      {made: units(qkv, 1), read: units(out, 0)},  # Heads.
      {made: units(qkv[:2], 2)},  # Queries and keys, within a head.
      {made: units(qkv[2:], 2), read: units(out, 1)},  # Values, within a head.
      f'{block}/mlp_in/kernel:1 {block}/mlp_in/bias:0 {block}/mlp_out/kernel:0']


STREAM = ('positions:2 blocks/0/norm./.*:0 blocks/0/(qkv|mlp_in)/kernel:0 '
          'blocks/0/(out|mlp_out)/kernel:1 blocks/0/(out|mlp_out)/bias:0 '
          'norm/.*:0 head/kernel:0 ')


@case
def vit():
  fn, params = nnx_module(
      lambda rngs: ViT((4, 6, 2), 5, width=12, depth=1, rngs=rngs))
  return make(
      fn, params, data(2, 4, 6, 2),
      kernels={'patches/kernel': CONV, 'head/kernel|blocks/.*/kernel': DENSE},
      free=[STREAM + 'patches/kernel:3 patches/bias:0',
            *block_ties('blocks/0')])


@case
def lm():
  fn, params = nnx_module(
      lambda rngs: LM((5,), 7, width=12, depth=1, rngs=rngs))
  return make(
      fn, params, tokens(256, 2, 5),
      kernels={'head/kernel|blocks/.*/kernel': DENSE},
      free=[STREAM + 'embedding/embedding:1', *block_ties('blocks/0')])


@case
def text_classifier():
  """Texts of several lengths: what is behind their ends is masked."""
  fn, params = nnx_module(
      lambda rngs: TextClassifier((5,), 7, width=12, depth=1, rngs=rngs))
  texts = (tokens(255, 2, 5) + 1).at[0, 3:].set(0)
  return make(
      fn, params, texts, kernels={'head/kernel|blocks/.*/kernel': DENSE},
      free=[STREAM + 'embedding/embedding:1', *block_ties('blocks/0')])


class Encoder(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(10, name='in')(x)
    y = nn.LayerNorm(name='norm1')(x)
    x = x + nn.MultiHeadDotProductAttention(
        2, qkv_features=6, name='attention')(y)
    y = nn.gelu(nn.Dense(7, name='up')(nn.LayerNorm(name='norm2')(x)))
    return nn.Dense(4, name='head')(x + nn.Dense(10, name='down')(y))


def attention_kernels(prefix):
  return {f'{prefix}attention/(query|key|value)/kernel': ((0,), (1, 2)),
          f'{prefix}attention/out/kernel': ((0, 1), (2,)),
          f'{prefix}(in|up|down|head)/kernel': DENSE}


def attention_ties(p):
  return [
      f'{p}(in|down)/kernel:1 {p}(in|down|attention/out)/bias:0 '
      f'{p}norm./.*:0 {p}attention/(query|key|value)/kernel:0 '
      f'{p}attention/out/kernel:2 {p}(up|head)/kernel:0',
      f'{p}attention/(query|key|value)/kernel:1 '  # Heads.
      f'{p}attention/(query|key|value)/bias:0 {p}attention/out/kernel:0',
      f'{p}attention/(query|key)/kernel:2 {p}attention/(query|key)/bias:1',
      f'{p}attention/value/kernel:2 {p}attention/value/bias:1 '
      f'{p}attention/out/kernel:1',
      f'{p}up/kernel:1 {p}up/bias:0 {p}down/kernel:0']


@case
def linen_encoder():
  fn, params = linen(Encoder(), data(2, 5, 4))
  return make(fn, params, data(2, 5, 4), kernels=attention_kernels('params/'),
              free=attention_ties('params/'))


class NNXEncoder(nnx.Module):

  def __init__(self, rngs):
    dense = lambda *widths: nnx.Linear(*widths, rngs=rngs)
    for name, widths in {'in': (4, 10), 'up': (10, 7), 'down': (7, 10),
                         'head': (10, 4)}.items():
      setattr(self, name, dense(*widths))
    self.norm1 = nnx.LayerNorm(10, rngs=rngs)
    self.norm2 = nnx.LayerNorm(10, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
        2, 10, 6, decode=False, keep_rngs=False, rngs=rngs)

  def __call__(self, x):
    x = getattr(self, 'in')(x)
    x = x + self.attention(self.norm1(x))
    y = nnx.gelu(self.up(self.norm2(x)))
    return self.head(x + self.down(y))


@case
def nnx_encoder():
  fn, params = nnx_module(NNXEncoder)
  return make(fn, params, data(2, 5, 4), kernels=attention_kernels(''),
              free=attention_ties(''))


# A decoder of the Llama kind: two heads for keys and values, each of which two
# heads for queries share.
D, KV, G, DH, F, VOCAB, T = 10, 2, 2, 6, 7, 11, 5


def rms_norm(scale, x):
  y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
  return y * jnp.broadcast_to(scale, x.shape)


def rotate(x, frequencies, interleaved):
  """Rotary embedding of `[N, T, heads, DH]`, in pairs of `DH`."""
  angles = jnp.arange(T, dtype=x.dtype)[:, None, None] * jnp.broadcast_to(
      frequencies, (T, 1, DH // 2))
  cos, sin = jnp.cos(angles)[None], jnp.sin(angles)[None]
  if interleaved:
    a, b = (jax.lax.slice_in_dim(x, i, DH, 2, -1) for i in (0, 1))
    pairs = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1)
    return pairs.reshape(x.shape)
  # Half-split, as most code writes it.
  cos, sin = (jnp.concatenate([c, c], -1) for c in (cos, sin))
  a, b = jnp.split(x, 2, -1)
  return x * cos + jnp.concatenate([-b, a], -1) * sin


def attend(p, x, interleaved):
  frequencies = p.get('frequencies')
  if frequencies is None:
    frequencies = jnp.power(100., -jnp.arange(DH // 2) / (DH // 2))
  q, k, v = (jnp.einsum('ntd,dhk->nthk', x, p[name])
             for name in ('query', 'key', 'value'))
  q = rotate(q, frequencies, interleaved).reshape(-1, T, KV, G, DH)
  k = rotate(k, frequencies, interleaved)
  logits = jnp.einsum('ntkgd,nskd->nkgts', q, k) * DH**-0.5
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), logits.shape)
  shares = jax.nn.softmax(jnp.where(mask, logits, -1e9))
  y = jnp.einsum('nkgts,nskd->ntkgd', shares, v).reshape(-1, T, KV * G, DH)
  return jnp.einsum('nthk,hkd->ntd', y, p['out'])


def swiglu(p, x):
  if 'gate_up' in p:
    gate, up = jnp.split(x @ p['gate_up'], 2, -1)
  else:
    gate, up = x @ p['gate'], x @ p['up']
  return (jax.nn.silu(gate) * up) @ p['down']


def decoder(*, interleaved=False, learned=False, fused=False, tied=False,
            scan=False, remat=False) -> Case:
  """A case of one decoder with two layers.

  Args:
    interleaved: whether neighbours are rotated, not halves.
    learned: whether frequencies of the rotation are parameters.
    fused: whether gates and what they gate come from one kernel.
    tied: whether the table of embeddings makes the logits too.
    scan: whether layers are stacked.
    remat: whether layers are computed twice in training.
  """
  layer = {'norm1': (D,), 'query': (D, KV * G, DH), 'key': (D, KV, DH),
           'value': (D, KV, DH), 'out': (KV * G, DH, D), 'norm2': (D,),
           'down': (F, D)}
  layer |= {'gate_up': (D, 2 * F)} if fused else {'gate': (D, F), 'up': (D, F)}
  layer |= {'frequencies': (DH // 2,)} if learned else {}
  shapes = {'embedding': (VOCAB, D), 'norm': (D,)}
  shapes |= {} if tied else {'head': (D, VOCAB)}
  if scan:
    shapes['layers'] = {name: (2, *shape) for name, shape in layer.items()}
  else:
    shapes['layers'] = [layer, layer]

  def step(x, p):
    x = x + attend(p, rms_norm(p['norm1'], x), interleaved)
    return x + swiglu(p, rms_norm(p['norm2'], x))

  def fn(p, x):
    one = jax.checkpoint(step) if remat else step
    x = p['embedding'][x]
    if scan:
      x, _ = jax.lax.scan(lambda x, p: (one(x, p), None), x, p['layers'])
    else:
      for layer in p['layers']:
        x = one(x, layer)
    head = p['embedding'].T if tied else p['head']
    return rms_norm(p['norm'], x) @ head

  def inner(p):
    """Ties of one layer, or of all if they are stacked; axes from behind."""
    heads, ffn, pairs = grid(KV, G), grid(2, F), grid(2, DH // 2)
    if interleaved:
      pairs = grid(DH // 2, 2).T
    yield {f'{p}query:-2 {p}out:-3': units(heads, 0),
           f'{p}(key|value):-2': WHOLE}
    yield {f'{p}query:-2 {p}out:-3': units(heads, 1)}
    yield f'{p}value:-1 {p}out:-2'
    if learned:
      yield {f'{p}(query|key):-1': units(pairs, 1), f'{p}frequencies:-1': WHOLE}
    if fused:
      yield {f'{p}gate_up:-1': units(ffn, 1), f'{p}down:-2': WHOLE}
    else:
      yield f'{p}(gate|up):-1 {p}down:-2'
  prefixes = ['layers/'] if scan else ['layers/0/', 'layers/1/']
  stream = (r'layers/.*(query|key|value):-3 layers/.*(gate|up|gate_up):-2 '
            r'layers/.*(norm1|norm2|out|down):-1 embedding:1 norm:0')
  offset = 1 if scan else 0
  axes = lambda *numbers: tuple(offset + n for n in numbers)
  # A table that is looked up too is used in two ways: it is no kernel.
  kernels = {
      '.*/(query|key|value)': (axes(0), axes(1, 2)),
      '.*/out': (axes(0, 1), axes(2)),
      '.*/(gate|up|gate_up|down)': (axes(0), axes(1)),
      **({} if tied else {'head': DENSE})}
  return make(
      fn, weights(shapes), tokens(VOCAB, 2, T), kernels=kernels,
      free=[stream if tied else f'{stream} head:0',
            *(tie for p in prefixes for tie in inner(p))],
      stuck=[{f'{p}(query|key):-1': WHOLE} for p in prefixes]
      + [{f'{p}query:-2 {p}out:-3': WHOLE} for p in prefixes])


@case
def decoder_half_split():
  return decoder()


@case
def decoder_learned_frequencies():
  return decoder(learned=True)


@case
def decoder_interleaved():
  return decoder(interleaved=True)


@case
def decoder_interleaved_learned():
  return decoder(interleaved=True, learned=True, tied=True)


@case
def decoder_fused():
  return decoder(fused=True)


@case
def decoder_tied_head():
  return decoder(tied=True)


@case
def decoder_scan():
  return decoder(scan=True)


@case
def decoder_scan_fused_remat():
  return decoder(scan=True, fused=True, remat=True)


@case
def decoder_remat():
  return decoder(remat=True)
