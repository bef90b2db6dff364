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
# Train a small network on real handwritten digits, prune it while it trains,
# and look at the masks. The idea of the whole library in one sentence:
#
# > **Differentiate at the sparse point; update the dense point.**
#
# On Colab, install first:
# `%pip install "git+https://github.com/<you>/jaxsparse" flax scikit-learn`

# %% tags=["parameters"]
STEPS = 1_500  # Per method; about ten seconds each on two CPU cores.

# %%
from flax import nnx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn import datasets
from sklearn import model_selection

import jaxsparse

# %% [markdown]
# ## The digits, and a narrow network
#
# 1,797 images of 8 x 8 pixels come with scikit-learn. The network has two
# hidden layers of only 32 units: narrow enough for sparsity to hurt.

# %%
digits = datasets.load_digits()
x_train, x_test, y_train, y_test = model_selection.train_test_split(
    digits.data.astype(np.float32) / 16 - 0.5, digits.target, test_size=500,
    stratify=digits.target, random_state=0)
x_train, x_test, y_train, y_test = map(
    jnp.asarray, (x_train, x_test, y_train, y_test))


class Net(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(64, 32, rngs=rngs)
    self.second = nnx.Linear(32, 32, rngs=rngs)
    self.head = nnx.Linear(32, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.first(x))
    return self.head(nnx.relu(self.second(x)))


graphdef, dense_params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)


def logits(params, x):
  return nnx.merge(graphdef, params, copy=True)(x)


# %% [markdown]
# ## The train step
#
# This is the step of any optax program, plus **one line**. It is the same for
# every method below; only `tx` changes.

# %%
def train(tx, params, steps=STEPS):
  """Trains; returns params, optimizer state, losses and sparsities."""
  opt_state = jax.jit(tx.init)(params)
  # Where the masks are there from the start, start at the sparse point.
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state)) if (
      jaxsparse.sparse_params(params, opt_state) is params) else params

  @jax.jit
  def train_step(params, opt_state, step):
    batch = jax.random.choice(
        jax.random.fold_in(jax.random.key(0), step), len(x_train), (128,))

    def loss_fn(params):
      return optax.softmax_cross_entropy_with_integer_labels(
          logits(params, x_train[batch]), y_train[batch]).mean()
    sparse = jaxsparse.sparse_params(params, opt_state)  # <- the one line
    loss, grads = jax.value_and_grad(loss_fn)(sparse)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  losses, sparsities = [], []
  for step in range(steps):
    params, opt_state, loss = train_step(params, opt_state, step)
    if step % 25 == 0 or step == steps - 1:
      losses.append((step, float(loss)))
      sparsities.append((step, jaxsparse.summary(
          params, jaxsparse.get_masks(opt_state)).sparsity))
  return params, opt_state, losses, sparsities


def accuracy(params, opt_state):
  sparse = jaxsparse.sparse_params(params, opt_state)
  return float((logits(sparse, x_test).argmax(-1) == y_test).mean())


# %% [markdown]
# ## Three methods
#
# A **rule** says which masks (patterns, score, distribution, schedule), a
# **flow** says what pruned weights still give and get. Regular expressions
# name the parameters; the head stays dense.

# %%
hidden = '(first|second)/kernel'
adam = optax.adam(3e-3)

gradual = jaxsparse.prune(
    {hidden: jaxsparse.unstructured(), '.*': None},
    distribution=jaxsparse.erk(0.9),
    schedule=jaxsparse.schedules.cubic(begin=STEPS // 5, end=STEPS * 3 // 4),
    when=jaxsparse.schedules.every(25))
two_of_four = jaxsparse.prune({hidden: jaxsparse.nm(2, 4), '.*': None})
rigl = jaxsparse.prune_and_grow(
    {hidden: jaxsparse.unstructured(), '.*': None}, sparsity=0.9,
    grow=jaxsparse.gradient(),
    when=jaxsparse.schedules.every(50, end=STEPS * 3 // 4),
    fraction=optax.cosine_decay_schedule(0.3, STEPS * 3 // 4))

methods = {
    'dense': jaxsparse.sparsify(adam, jaxsparse.prune({'.*': None})),
    'gradual 90%': jaxsparse.sparsify(adam, gradual, jaxsparse.hard()),
    '2:4 SR-STE': jaxsparse.sparsify(adam, two_of_four, jaxsparse.sr_ste()),
    'RigL 90%': jaxsparse.sparsify(adam, rigl, jaxsparse.hard()),
}
runs = {name: train(tx, dense_params) for name, tx in methods.items()}
for name, (params, opt_state, *_) in runs.items():
  print(f'{name:12}  test accuracy {accuracy(params, opt_state):.1%}')

# %% [markdown]
# ## What happened

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
for name, (_, _, losses, sparsities) in runs.items():
  left.plot(*zip(*losses), label=name, linewidth=1.2)
  right.plot(*zip(*sparsities), label=name)
left.set(yscale='log', xlabel='step', title='training loss of a batch')
right.set(xlabel='step', title='fraction pruned', ylim=(-0.03, 1))
right.legend(frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## The masks
#
# Black is kept; rows are inputs, columns are units. An empty row is a pixel
# that the network does without (many at the border never carry ink), an empty
# column a unit that died. 2:4 has to keep two of every four inputs, whatever
# they are worth.

# %%
figure, axes = plt.subplots(1, 3, figsize=(8, 5))
for axis, name in zip(axes, ('gradual 90%', '2:4 SR-STE', 'RigL 90%')):
  mask = jaxsparse.get_masks(runs[name][1])['first']['kernel'][...]
  axis.imshow(mask, cmap='Greys', interpolation='nearest', aspect='auto')
  axis.set(title=name, xlabel='unit', ylabel='input pixel')
figure.tight_layout()
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
groups = (np.asarray(weights['first']['kernel'][...]) != 0).reshape(16, 4, 32)
print('nonzero per group of four:', np.unique(groups.sum(axis=1)))
assert (groups.sum(axis=1) == 2).all()
