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
# # Four newer methods, one network
#
# This notebook trains one small network by four methods of 2021 to 2024, and
# looks at what each of them does differently:
#
# * **AC/DC** alternates dense and sparse phases.
# * **GraNet** prunes little by little, and lets connections grow back.
# * **SRigL** moves connections like RigL, and gives every unit equally many
#   inputs. Units that earn too few inputs die.
# * **S-STE** is 2:4 with a forward pass that is a continuous function of the
#   weights.
#
# The first three end with 90% of the weights pruned, the last one with 50% of
# the hidden weights. The notebook takes about a minute on two CPU cores.
#
# This is **one seed and a small network**. It shows the behaviour of the
# methods, not which is best. `quickstart.ipynb` explains the train step.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

# %% tags=["parameters"]
STEPS = 2_000  # Per method; a few seconds each on two CPU cores.

# %%
from typing import NamedTuple

from flax import nnx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import common  # What the notebooks of this folder share.
import jaxsparse
from jaxsparse import packed

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## The digits, and a network
#
# 1,797 images of 8 x 8 pixels; 500 are held out. The network has two hidden
# layers of 128 units.

# %%
x_train, x_test, y_train, y_test = common.load_digits()
logits, initial_params = common.functional(
    common.MLP(128, 128, rngs=nnx.Rngs(0)))


def loss_fn(params, x, y):
  return common.cross_entropy(logits(params, x), y)


# %% [markdown]
# ## The methods
#
# A method is one line. SRigL also reads the *ties* of the network: a tie is the
# set of parameter axes that index the same units, here the outputs of one
# kernel, its bias, and the inputs of the next kernel. A unit that dies then
# loses all of them. The head has a pattern, too, as a unit can only die if all
# kernels that read it may lose weights.

# %%
free = {'.*/kernel': jaxsparse.unstructured(), '.*': None}
equal = {'.*/kernel': jaxsparse.unstructured(balanced=True), '.*': None}
groups = {'hidden/.*/kernel': jaxsparse.nm(2, 4), '.*': None}
ties = jaxsparse.infer_ties(logits, initial_params, x_train[:1])

every = max(STEPS // 40, 2)
methods = {
    'dense': jaxsparse.methods.ste({'.*': None}, STEPS),
    'AC/DC': jaxsparse.methods.ac_dc(free, 0.9, STEPS),
    'GraNet': jaxsparse.methods.granet(free, 0.9, STEPS, every=every),
    'SRigL': jaxsparse.methods.srigl(
        equal, 0.9, STEPS, ties=ties, every=every),
    'S-STE': jaxsparse.methods.s_ste(groups, STEPS),
}
colors = dict(zip(
    methods, ('0.6', 'tab:blue', 'tab:orange', 'tab:green', 'tab:red')))


# %%
class Seen(NamedTuple):
  """The records of every step."""
  loss: jax.Array
  share: jax.Array  # Of the first kernel's weights that are not zero.


def record(loss, params, opt_state):
  """Keeps the loss, and the share of the first kernel that is used."""
  sparse = jaxsparse.sparse_params(params, opt_state)
  return Seen(loss, (sparse['hidden'][0]['kernel'][...] != 0).mean())


def train(method):
  """Trains; returns params, optimizer state and a `Seen` of `[STEPS]`."""
  tx = jaxsparse.sparsify(optax.adam(3e-3), method)
  params, opt_state, seen = common.train(
      tx, initial_params, loss_fn=loss_fn, data=(x_train, y_train),
      steps=STEPS, record=record)
  return params, opt_state, jax.device_get(seen)


runs = {name: train(method) for name, method in methods.items()}

# %% [markdown]
# ## How many weights are kept, and what that does to the loss
#
# Right: the share of the first kernel that is kept. AC/DC jumps between nearly
# dense and its sparse phases, whose 10% are counted over all layers together.
# GraNet starts with half of all weights and comes to its target in the first
# 30% of training. SRigL has its number of weights from the first step, and
# S-STE keeps two of every four. The small dips of SRigL are weights that have
# just grown, which start at zero.
#
# Left: each time AC/DC prunes, the loss jumps, and it falls again in the dense
# phase that follows.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
for name, (_, _, seen) in runs.items():
  left.plot(common.running_mean(seen.loss, 25), color=colors[name])
  right.plot(seen.share, color=colors[name], label=name)
left.set(yscale='log', xlabel='step', title='training loss')
right.set(xlabel='step', title='share of the first kernel kept', ylim=(0, 1.3))
right.legend(ncols=3, loc='upper center')
plt.show()

# %% [markdown]
# ## What is left in the end
#
# `sparse_params` returns the weights of the forward pass, for any method. The
# first three sparse methods have a total of about 10% of all weights. They
# spread it over the layers in their own ways: AC/DC and GraNet by one threshold
# for all layers, SRigL by layer size.

# %%
rows = []
for name, (params, opt_state, _) in runs.items():
  sparse = jaxsparse.sparse_params(params, opt_state)
  kernels = [layer['kernel'][...] for layer in (
      sparse['hidden'][0], sparse['hidden'][1], sparse['head'])]
  rows.append((
      name, f'{common.accuracy(logits(sparse, x_test), y_test):.1%}',
      *(f'{np.mean(np.asarray(w) != 0):.1%}' for w in kernels)))
common.print_table(
    ['method', 'test accuracy', 'hidden 0', 'hidden 1', 'head'], rows)

# %% [markdown]
# ## SRigL: every living unit has the same number of inputs
#
# Each column of a kernel holds the inputs of one unit. All units that live have
# the same fan-in, and units that died have none.

# %%
params, opt_state, _ = runs['SRigL']
masks = jaxsparse.get_masks(opt_state)
figure, axes = plt.subplots(1, 2, figsize=(10, 3))
for i, axis in enumerate(axes):
  mask = np.asarray(masks['hidden'][i]['kernel'][...])
  fan_in = mask.sum(axis=0)
  alive = fan_in[fan_in > 0]
  assert (alive == alive[0]).all()
  axis.imshow(mask, aspect='auto')
  axis.set(xlabel='unit', ylabel='input', title=(
      f'hidden {i}: {len(alive)} units of {alive[0]} inputs'))
plt.show()

# %% [markdown]
# Both facts save memory and time without special hardware. `slim` cuts the dead
# units out, and `condense` stores each living unit as its inputs' indices and
# values. The network computes the same function.

# %%
keep = jaxsparse.alive(params, ties)
small = jaxsparse.slim(params, ties, keep)
kernel = small['hidden'][0]['kernel'][...]
stored = packed.condense(kernel, kernel != 0, block=1)
dense_bytes = initial_params['hidden'][0]['kernel'][...].nbytes
print(f'hidden 0: {dense_bytes:,} bytes dense, {kernel.nbytes:,} slim, '
      f'{stored.nbytes:,} condensed')
pre_activations = jaxsparse.matmul(x_test, stored)
np.testing.assert_allclose(pre_activations, x_test @ kernel, atol=1e-4)
np.testing.assert_allclose(
    logits(small, x_test), logits(params, x_test), atol=1e-4)

# %% [markdown]
# ## S-STE: the sparse weights are not a mask times the weights
#
# S-STE subtracts the largest pruned magnitude of each group from the two kept
# weights, and multiplies the result by one number per kernel. So the forward
# pass changes continuously as weights move from kept to pruned. The figure has
# the kept weights of the forward pass against the dense weights that the
# optimizer holds. On the diagonal they would be equal.
#
# Deploy the weights of `sparse_params`: the masks times the dense weights are
# another network.

# %%
params, opt_state, _ = runs['S-STE']
sparse = jaxsparse.sparse_params(params, opt_state)
masks = jaxsparse.get_masks(opt_state)
masked = jaxsparse.apply_masks(params, masks)
kept = np.asarray(masks['hidden'][0]['kernel'][...])
held, seen = (np.asarray(tree['hidden'][0]['kernel'][...])[kept]
              for tree in (params, sparse))
figure, axis = plt.subplots(figsize=(4.5, 4))
axis.plot([-1, 1], [-1, 1], color='0.8', linewidth=1, zorder=0)
axis.scatter(held, seen, s=2, color=colors['S-STE'])
limit = float(np.abs(held).max())
axis.set(xlabel='dense weight', ylabel='weight of the forward pass',
         title='S-STE, kept weights', xlim=(-limit, limit),
         ylim=(-limit, limit))
plt.show()
for name, tree in (('sparse_params', sparse), ('masks times weights', masked)):
  print(f'{name}: a test loss of {loss_fn(tree, x_test, y_test):.3f}')

# %% [markdown]
# On 500 images one standard error is nearly a percentage point, so this
# notebook ranks nothing. `experiments/configs/mnist/sweep_unstructured.py` and
# `sweep_nm.py` compare these methods with seeds and intervals.
