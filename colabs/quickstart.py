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
# # jaxsparse in ten minutes
#
# This notebook trains a small network on real handwritten digits, prunes it
# during training with three methods, and shows the masks. It takes half a
# minute on two CPU cores.
#
# The library follows one idea:
#
# > **Differentiate at the sparse point; update the dense point.**
#
# The *dense point* is the parameters that the optimizer holds. The *sparse
# point* is the same parameters under the current masks.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

# %% tags=["parameters"]
STEPS = 1_500  # Per method; about ten seconds each on two CPU cores.

# %%
from flax import nnx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import common  # What the notebooks of this folder share.
import jaxsparse

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## The digits, and a narrow network
#
# The data are 1,797 images of 8 x 8 pixels from scikit-learn. The network has
# two hidden layers of only 32 units, which is narrow enough for sparsity to
# reduce its accuracy. The parameters are an ordinary tree, and
# `logits(params, x)` is a pure function.

# %%
x_train, x_test, y_train, y_test = common.load_digits()
logits, dense_params = common.functional(common.MLP(32, 32, rngs=nnx.Rngs(0)))
for path, array in nnx.to_flat_state(dense_params):
  print('/'.join(map(str, path)), array.shape)


# %% [markdown]
# ## The train step
#
# This is the step of any optax program, plus **one line**. It is the same for
# every method below; only `tx` changes. The other notebooks import this step
# from `common.py`.

# %%
def train(tx, params):
  """Trains; returns params, optimizer state, losses and sparsities."""

  def loss_fn(params, x, y):
    return common.cross_entropy(logits(params, x), y)

  @jax.jit
  def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(0), step)
    batch = jax.random.choice(key, len(x_train), (128,))
    sparse = jaxsparse.sparse_params(params, opt_state)  # <- the one line
    loss, grads = jax.value_and_grad(loss_fn)(
        sparse, x_train[batch], y_train[batch])
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  opt_state = jax.jit(tx.init)(params)
  losses, sparsities = [], []
  for step in range(STEPS):
    params, opt_state, loss = train_step(params, opt_state, step)
    if step % 25 == 0 or step == STEPS - 1:
      losses.append((step, float(loss)))
      sparsities.append((step, jaxsparse.summary(
          params, jaxsparse.get_masks(opt_state)).sparsity))
  return params, opt_state, losses, sparsities


# %% [markdown]
# ## Three methods
#
# A **rule** makes the masks (from patterns, score, distribution and schedule).
# A **flow** decides how pruned weights take part in the forward pass and in the
# gradient. A rule and a flow together are a **method**: `jaxsparse.methods` has
# published methods, with the defaults of their papers. Regular expressions name
# the parameters; the head stays dense.

# %%
kernels = 'hidden/.*/kernel'
adam = optax.adam(3e-3)

gradual = jaxsparse.prune(
    {kernels: jaxsparse.unstructured(), '.*': None},
    distribution=jaxsparse.erk(0.9),
    schedule=jaxsparse.schedules.cubic(begin=STEPS // 5, end=STEPS * 3 // 4),
    when=jaxsparse.schedules.every(25))
sr_ste = jaxsparse.methods.sr_ste(
    {kernels: jaxsparse.nm(2, 4), '.*': None}, STEPS)
rigl = jaxsparse.methods.rigl(
    {kernels: jaxsparse.unstructured(), '.*': None}, 0.9, STEPS,
    every=STEPS // 30)

optimizers = {
    'dense': jaxsparse.sparsify(adam, jaxsparse.prune({'.*': None})),
    'gradual 90%': jaxsparse.sparsify(adam, gradual, jaxsparse.hard()),
    '2:4 SR-STE': jaxsparse.sparsify(adam, sr_ste),
    'RigL 90%': jaxsparse.sparsify(adam, rigl),
}
runs = {name: train(tx, dense_params) for name, tx in optimizers.items()}


def accuracy(params, opt_state):
  sparse = jaxsparse.sparse_params(params, opt_state)
  return common.accuracy(logits(sparse, x_test), y_test)


common.print_table(['method', 'test accuracy'], [
    (name, f'{accuracy(params, opt_state):.1%}')
    for name, (params, opt_state, *_) in runs.items()])

# %% [markdown]
# ## What happened

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
for name, (_, _, losses, sparsities) in runs.items():
  left.plot(*zip(*losses), label=name)
  right.plot(*zip(*sparsities))
left.set(yscale='log', xlabel='step', title='training loss of a batch')
right.set(xlabel='step', title='fraction pruned', ylim=(-0.03, 1))
left.legend(loc='lower left')
plt.show()

# %% [markdown]
# ## The masks
#
# Kept weights are black; rows are inputs, columns are units. An empty row is a
# pixel that the network does not use (many pixels at the border never have
# ink). An empty column is a unit without any weight. 2:4 keeps two of every
# four inputs even if all of them are unimportant.

# %%
figure, axes = plt.subplots(1, 3, figsize=(8, 5))
for axis, name in zip(axes, ('gradual 90%', '2:4 SR-STE', 'RigL 90%')):
  mask = jaxsparse.get_masks(runs[name][1])['hidden'][0]['kernel'][...]
  axis.imshow(mask, aspect='auto')
  axis.set(title=name, xlabel='unit', ylabel='input pixel')
plt.show()

# %% [markdown]
# The same as a table, and as data:

# %%
params, opt_state, *_ = runs['gradual 90%']
table = jaxsparse.summary(params, jaxsparse.get_masks(opt_state))
print(table)
assert abs(table.sparsity - 0.9) < 1e-3

# %% [markdown]
# Pruned weights are exactly zero; 2:4 weights, once masked, are exactly 2:4:

# %%
weights = jaxsparse.sparse_params(*runs['2:4 SR-STE'][:2])
kernel = np.asarray(weights['hidden'][0]['kernel'][...])
nonzero = (kernel != 0).reshape(16, 4, 32).sum(axis=1)
print('nonzero per group of four inputs:', np.unique(nonzero))
assert (nonzero == 2).all()
