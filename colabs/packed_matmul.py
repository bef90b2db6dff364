# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Packed 2:4: a language model in less memory
#
# This notebook trains a small language model of Python source, prunes it to
# 2:4, retrains it, packs it, and compares logits, bytes and time. It takes some
# minutes on a CPU. `quickstart.ipynb` explains the train step.
#
# A **2:4** weight has at most two nonzero entries for every four neighbouring
# inputs. `pack` stores these two and their positions, in 9/16 of the bytes of a
# dense bfloat16 weight. `matmul` multiplies with packed weights: on Hopper GPUs
# and TPUs by a kernel that never unpacks them in memory, elsewhere by XLA.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

# %% tags=["parameters"]
STEPS = 600  # Half of them dense; a minute or two on two CPU cores.

# %%
import pathlib
import sysconfig
import time

from flax import nnx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import common  # What the notebooks of this folder share.
import jaxsparse
from jaxsparse import nn

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## Bytes of Python's own library
#
# The data are the bytes of Python's own library. The last files, about a
# twentieth of the bytes, are held out.

# %%
CONTEXT, BATCH = 64, 16

library = pathlib.Path(sysconfig.get_paths()['stdlib'])
texts = [path.read_bytes() for path in sorted(library.glob('*.py'))]
corpus = np.frombuffer(b'\0'.join(texts), np.uint8)
train_bytes, test_bytes = np.split(corpus, [len(corpus) * 19 // 20])
print(f'{len(texts)} files, {len(corpus) / 1e6:.1f} million bytes')


def windows(data, starts):
  """Rows of bytes, and the byte that follows each of them."""
  rows = data[starts[:, None] + np.arange(CONTEXT + 1)]
  return jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:])


# %% [markdown]
# ## A transformer
#
# The model is 256 wide, because the GPU and TPU kernels read tiles of 256
# inputs and pad narrower weights. The parameters are bfloat16, as in most
# served models.

# %%
WIDTH, HEADS, DEPTH = 256, 4, 2


class Block(nnx.Module):
  def __init__(self, rngs):
    linear = lambda i, o: nnx.Linear(
        i, o, param_dtype=jnp.bfloat16, rngs=rngs)
    self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
    self.mlp_in = linear(WIDTH, 4 * WIDTH)
    self.mlp_out = linear(4 * WIDTH, WIDTH)

  def __call__(self, x):
    qkv = self.qkv(self.norm1(x).astype(x.dtype))
    qkv = qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
    y = jax.nn.dot_product_attention(
        *jnp.moveaxis(qkv, 2, 0), is_causal=True)
    x = x + self.out(y.reshape(x.shape))
    y = self.norm2(x).astype(x.dtype)
    return x + self.mlp_out(nnx.gelu(self.mlp_in(y)))


class LanguageModel(nnx.Module):
  def __init__(self, rngs):
    self.embedding = nnx.Embed(256, WIDTH, param_dtype=jnp.bfloat16,
                               dtype=jnp.bfloat16, rngs=rngs)
    self.positions = nnx.Param(0.2 * jax.random.normal(
        rngs.params(), (CONTEXT, WIDTH), jnp.bfloat16))
    self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
    self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, 256, rngs=rngs)

  def __call__(self, x):
    x = self.embedding(x.astype(jnp.int32)) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x))


model = LanguageModel(nnx.Rngs(0))
graphdef, params = nnx.split(model, nnx.Param)


def loss_fn(params, x, y):
  logits = nnx.merge(graphdef, params, copy=True)(x)
  return common.cross_entropy(logits, y.astype(jnp.int32))


# %% [markdown]
# ## Train, prune, retrain
#
# All kernels of the blocks become 2:4 along their inputs, once, after half of
# the steps. Embedding and head stay dense.

# %%
patterns = {'blocks/.*/kernel': jaxsparse.nm(2, 4), '.*': None}
method = jaxsparse.methods.train_prune_retrain(
    patterns, STEPS, prune_step=STEPS // 2)
schedule = optax.cosine_onecycle_schedule(2 * STEPS, 2e-3)
tx = jaxsparse.sparsify(optax.adamw(schedule), method)
train_step = jax.jit(common.train_step(tx, loss_fn))

rng = np.random.default_rng(0)
opt_state, losses = tx.init(params), []
for _ in range(STEPS):
  starts = rng.integers(len(train_bytes) - CONTEXT, size=BATCH)
  params, opt_state, loss = train_step(
      params, opt_state, *windows(train_bytes, starts))
  losses.append(loss)
bits = np.array(losses) / np.log(2)

figure, axis = plt.subplots(figsize=(7, 3.2))
width = max(1, STEPS // 30)
axis.plot(np.arange(width - 1, STEPS), common.running_mean(bits, width))
axis.axvline(STEPS // 2, color='0.7', linewidth=1)
axis.text(STEPS // 2, axis.get_ylim()[1], ' pruned to 2:4', va='top')
axis.set(xlabel='step', title='bits per byte, training')
plt.show()

# %% [markdown]
# ## Pack it
#
# `pack_model` packs the kernels that match the patterns, and raises an error
# for a weight that is not 2:4. Use the model as before: its linear layers now
# call `jaxsparse.matmul`.

# %%
sparse = jaxsparse.sparse_params(params, opt_state)
dense_model = nnx.merge(graphdef, sparse)
packed_model = nn.pack_model(nnx.merge(graphdef, sparse, copy=True), patterns)


def kernel_bytes(model):
  state = nnx.state(model, nnx.Param)['blocks']
  return sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim > 1)


dense_bytes, packed_bytes = map(kernel_bytes, (dense_model, packed_model))
print(packed_model.blocks[0].mlp_in.kernel)
print(f'kernels of the blocks: {dense_bytes:,} bytes dense, {packed_bytes:,} '
      f'packed, {packed_bytes / dense_bytes:.4f} of them')

# %% [markdown]
# ## The same logits
#
# Packing is lossless: `unpack` returns the same bits. Products differ by
# bfloat16 rounding, because `matmul` sums in float32 and rounds once, Flax's
# layers leave the rounding to XLA, and a kernel sums in another order.

# %%
run = nnx.jit(lambda model, x: model(x))
starts = np.arange(0, len(test_bytes) - CONTEXT - 1, CONTEXT)[:64]
x, y = windows(test_bytes, starts)
dense_logits, packed_logits = run(dense_model, x), run(packed_model, x)
difference = jnp.abs(dense_logits - packed_logits).max()
print(f'largest logit {jnp.abs(dense_logits).max():.2f}, '
      f'largest difference {difference:.2g}')
for name, logits in (('dense', dense_logits), ('packed', packed_logits)):
  print(f'{name:6} accuracy of the next byte: '
        f'{common.accuracy(logits, y):.2%}')
assert difference < 0.01 * jnp.abs(dense_logits).max()

# %% [markdown]
# ## Time
#
# The forward passes of both models are timed alternately. A kernel on GPU or
# TPU reads fewer bytes, and with few tokens reading takes most of the time.
# **On a CPU the times say nothing about sparsity**: XLA unpacks the weight in
# every call. The packed model may still seem faster, because XLA's sums in
# bfloat16 are slow on CPUs and `matmul` sums in float32. On CPUs packing only
# saves memory.

# %%
def milliseconds(model, x):
  start = time.perf_counter()
  jax.block_until_ready(run(model, x))
  return 1e3 * (time.perf_counter() - start)


print(f'on {jax.devices()[0].device_kind}; Hopper kernel: '
      f'{jaxsparse.packed.missing("gpu") or "used"}')
shares = []
rows = []
for count in (1, 64):
  times = [[milliseconds(model, x[:count])
            for model in (dense_model, packed_model)] for _ in range(12)]
  dense_ms, packed_ms = np.median(times[1:], axis=0)  # The first compiles.
  shares.append(packed_ms / dense_ms)
  rows.append((f'{count}', f'{dense_ms:.2f}', f'{packed_ms:.2f}'))
common.print_table(['windows', 'dense, ms', 'packed, ms'], rows)

figure, axis = plt.subplots(figsize=(6, 2.4))
names = ['bytes of kernels', 'time, 1 window', 'time, 64 windows']
axis.barh(names, [packed_bytes / dense_bytes, *shares], color='tab:blue')
axis.axvline(1, color='0.3', linewidth=1)
axis.invert_yaxis()
axis.set(title='packed, as a share of dense')
plt.show()

# %% [markdown]
# ## Both ways: transposable masks
#
# The gradient of a layer's input is a product with the transposed weight. For
# this product to use sparse tensor cores, too, a mask must be 2:4 along both
# axes. `nm(2, 4, transposable=True)` finds, for every 4 x 4 tile, the best of
# the 90 masks that keep two entries in each row and column. `training_matmul`
# then packs the weight for both products of a training step; the gradients of
# weights stay dense.

# %%
w = jax.random.normal(jax.random.key(0), (WIDTH, 4 * WIDTH))
free, both = (
    jaxsparse.select(jnp.abs(w), jaxsparse.nm(2, 4, transposable=transposable))
    for transposable in (False, True))
for name, mask in (('2:4', free), ('2:4 both ways', both)):
  kept = (jnp.abs(w) * mask).sum() / jnp.abs(w).sum()
  print(f'{name:14} keeps {kept:.1%} of the magnitude')
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for axis, name, mask in zip(axes, ('2:4', '2:4 both ways'), (free, both)):
  axis.imshow(mask[:16, :16])
  axis.set(title=name, xlabel='output', ylabel='input',
           xticks=np.arange(-.5, 16, 4), yticks=np.arange(-.5, 16, 4),
           xticklabels=[], yticklabels=[])
  axis.grid(color='tab:orange')
plt.show()

# %% [markdown]
# With such a weight, the gradients equal those of the dense product:

# %%
masked = jnp.where(both, w, 0)
inputs = jax.random.normal(jax.random.key(1), (32, WIDTH))


def norms(product):
  """The sizes of both gradients of a sum of squares."""
  loss = lambda x, w: (product(x, w)**2).sum()
  return map(jnp.linalg.norm, jax.grad(loss, (0, 1))(inputs, masked))


for name, product in (('dense', jnp.dot),
                      ('packed', jaxsparse.packed.training_matmul)):
  of_inputs, of_weights = norms(product)
  print(f'{name:6} gradients: inputs {of_inputs:.4f}, weights '
        f'{of_weights:.4f}')
