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
# # Prune what is already trained
#
# This notebook prunes a trained network with a hundred inputs and without
# training. **One-shot pruning** chooses masks from the inputs of each layer,
# and changes the kept weights to compensate for the pruned ones. The notebook
# compares the methods, and shows the error of each layer. It takes half
# a minute on two CPU cores.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

# %% tags=["parameters"]
STEPS = 1_500  # Of dense training; about ten seconds on two CPU cores.

# %%
from flax import nnx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import common  # What the notebooks of this folder share.
import jaxsparse
from jaxsparse import calibration

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## A trained network
#
# The network is an ordinary one with three hidden layers for handwritten
# digits, trained dense.

# %%
x_train, x_test, y_train, y_test = common.load_digits()
apply, dense = common.functional(common.MLP(64, 64, 64, rngs=nnx.Rngs(0)))
dense, *_ = common.train(
    jaxsparse.sparsify(optax.adam(3e-3), jaxsparse.prune({'.*': None})), dense,
    loss_fn=lambda params, x, y: common.cross_entropy(apply(params, x), y),
    data=(x_train, y_train), steps=STEPS)


def accuracy(params):
  return common.accuracy(apply(params, x_test), y_test)


print(f'dense: test accuracy {accuracy(dense):.1%}')

# %% [markdown]
# ## Pruned in a few lines
#
# `batches` are inputs alone: no labels are needed. The head stays dense.

# %%
batches = [x_train[:128]]
rules = {'hidden/.*/kernel': jaxsparse.unstructured()}

pruned, masks = jaxsparse.one_shot(
    apply, dense, batches, rules, method='sparsegpt', sparsity=0.8)

print(jaxsparse.summary(pruned, masks))
print(f'80% pruned: test accuracy {accuracy(pruned):.1%}')

# %% [markdown]
# ## Which method
#
# * **magnitude** keeps the largest weights, and needs no data;
# * **Wanda** multiplies the magnitudes by the norms of the inputs;
# * **SparseGPT** and **ADMM** also change the kept weights;
# * **refit** solves for the kept weights under any mask.
#
# The table is of one small network: another one may rank the methods otherwise.

# %%
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
METHODS = {'magnitude': ('magnitude', False), 'Wanda': ('wanda', False),
           'SparseGPT': ('sparsegpt', False), 'ADMM': ('admm', False),
           'Wanda and refit': ('wanda', True)}

found, errors = {}, {}
for name, (method, refit) in METHODS.items():
  found[name] = []
  for sparsity in SPARSITIES:
    states = []
    params, _ = jaxsparse.one_shot(
        apply, dense, batches, rules, method, sparsity, refit=refit,
        save=states.append)
    found[name].append(accuracy(params))
    errors[name, sparsity] = states[-1].errors

common.print_table(
    ['test accuracy', *(f'{s:.0%}' for s in SPARSITIES)],
    [(name, *(f'{a:.1%}' for a in row)) for name, row in found.items()])

# %%
figure, axes = plt.subplots(figsize=(5, 3.2))
for name, row in found.items():
  axes.plot(SPARSITIES, row, marker='o', label=name)
axes.axhline(accuracy(dense), color='grey', linestyle=':', label='dense')
axes.set(xlabel='sparsity', ylabel='test accuracy')
axes.legend()
plt.show()

# %% [markdown]
# ## Layer by layer
#
# The error of a layer is the squared difference of its outputs relative to the
# squares of the outputs: `tr((w - v)ᵀ h (w - v)) / tr(wᵀ h w)`. Wanda and
# magnitude have no error here, because they do not compute second moments of
# the inputs.

# %%
layers = list(errors['SparseGPT', 0.8])
common.print_table(
    ['error at 80%', *layers],
    [(name, *(f'{float(errors[name, 0.8][layer]):.4f}' for layer in layers))
     for name in ('SparseGPT', 'ADMM', 'Wanda and refit')])

figure, axes = plt.subplots(figsize=(5, 3.2))
for name in ('SparseGPT', 'ADMM', 'Wanda and refit'):
  axes.plot(SPARSITIES, [np.mean([
      float(e) for e in errors[name, s].values()]) for s in SPARSITIES],
            marker='o', label=name)
axes.set(xlabel='sparsity', ylabel='mean error of layers', yscale='log')
axes.legend()
plt.show()

# %% [markdown]
# ## A little training, without labels
#
# `reconstruct` trains the pruned network window by window to match the
# activations of the dense network. Pruned weights stay zero.

# %%
pruned, masks = jaxsparse.one_shot(
    apply, dense, batches, rules, 'sparsegpt', 0.9)
trained = calibration.reconstruct(
    apply, pruned, masks, batches, dense=dense, steps=200)
print(f'90% pruned: test accuracy {accuracy(pruned):.1%}, reconstructed '
      f'{accuracy(trained):.1%}')
zeros = jax.tree.map(
    lambda w, mask: mask is None or not np.any(np.asarray(w)[~mask]),
    trained, masks, is_leaf=lambda x: x is None)
assert all(jax.tree.leaves(zeros))
