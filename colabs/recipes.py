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
# # The same pruning three ways
#
# Blocks of four outputs, 80% of them pruned by SNIP-momentum, the default of
# Neural Compressor: as **functions**, as a **recipe** in YAML, and by **hooks**
# in a training loop that somebody else wrote. The masks are the same, bit for
# bit. Then the other two tools of that library: group Lasso, and gradient
# sensitivity, after which neurons are really gone.
#
# On Colab, install first:
# `%pip install "git+https://github.com/<you>/jaxsparse" flax scikit-learn`

# %% tags=["parameters"]
STEPS = 1_000  # Per training; a few seconds each on two CPU cores.

# %%
import pathlib
import tempfile

from flax import nnx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn import datasets
from sklearn import model_selection

import jaxsparse

# %% [markdown]
# ## Digits, a network, and batches
#
# 1,797 handwritten digits that come with scikit-learn.

# %%
digits = datasets.load_digits()
x_train, x_test, y_train, y_test = model_selection.train_test_split(
    digits.data.astype(np.float32) / 16 - 0.5, digits.target, test_size=500,
    stratify=digits.target, random_state=0)
draws = np.random.default_rng(0).integers(len(x_train), size=(STEPS, 128))
batches = [(x_train[rows], y_train[rows]) for rows in draws]


class Net(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(64, 64, rngs=rngs)
    self.second = nnx.Linear(64, 64, rngs=rngs)
    self.head = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.first(x))
    return self.head(nnx.relu(self.second(x)))


def model_loss(model, batch):
  x, labels = batch
  return optax.softmax_cross_entropy_with_integer_labels(
      model(x), labels).mean()


graphdef, new_params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)


def apply(params, x):
  return nnx.merge(graphdef, params, copy=True)(x)


def loss_fn(params, batch):
  return model_loss(nnx.merge(graphdef, params, copy=True), batch)


def accuracy(params):
  return f'{(apply(params, x_test).argmax(-1) == y_test).mean():.1%}'


# %% [markdown]
# ## 1. Functions
#
# A rule is made of a pattern, a score, a distribution and a schedule, and joins
# any optax optimizer. `last_kernels` reads from the model which layer is the
# last one; that stays dense.

# %%
last = jaxsparse.graph.last_kernels(apply, new_params, x_train[:1])
start, end, frequency = 1, STEPS * 7 // 10, STEPS // 50
rule = jaxsparse.prune(
    {**dict.fromkeys(last),                        # None: dense
     '.*kernel': jaxsparse.block((1, 4))},         # [in, out]: 4 outputs
    score=jaxsparse.snip_momentum(),
    distribution=jaxsparse.uniform(0.8),
    schedule=jaxsparse.schedules.cubic(start, end),
    when=jaxsparse.schedules.every(frequency, begin=start, end=end))
tx = jaxsparse.sparsify(optax.adam(3e-3), rule, jaxsparse.hard())


def train(tx, params):
  opt_state = jax.jit(tx.init)(params)

  @jax.jit
  def train_step(params, opt_state, batch):
    sparse = jaxsparse.sparse_params(params, opt_state)
    grads = jax.grad(loss_fn)(sparse, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
  for batch in batches:
    params, opt_state = train_step(params, opt_state, batch)
  return params, opt_state


params, opt_state = train(tx, new_params)
masks = jaxsparse.get_masks(opt_state)
print(jaxsparse.summary(params, masks))
print('test accuracy, functions:', accuracy(params))

# %% [markdown]
# ## 2. A recipe
#
# The same as data. In a recipe, as in Neural Compressor's files, blocks are
# outputs x inputs, and `'2:4'` *keeps* two of four. A misspelt key is an error
# that names the right one.

# %%
text = f'''
pattern: 4x1
sparsity: 0.8
criterion: snip_momentum
decay: cubic
start: {start}
end: {end}
frequency: {frequency}
'''
folder = pathlib.Path(tempfile.mkdtemp())
(folder / 'prune.yaml').write_text(text)
made = jaxsparse.from_recipe(
    folder / 'prune.yaml', total_steps=STEPS, exclude=last)
params, opt_state = train(made.sparsify(optax.adam(3e-3)), new_params)
print('test accuracy, recipe:', accuracy(params))


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(
      lambda m, n: bool((m == n).all()), a, b)))


print('the same masks:', same(masks, jaxsparse.get_masks(opt_state)))

try:
  jaxsparse.from_recipe({'sparsity': 0.8, 'patern': '4x1'}, total_steps=STEPS)
except ValueError as error:
  print('\nA misspelt key:', error)

# %% [markdown]
# `to_recipe` writes all of it, defaults included, for standing next to
# checkpoints. Files of Neural Compressor are read, too; what means something
# else here is told.

# %%
jaxsparse.recipes.to_recipe(made, folder / 'recipe.yaml')
print((folder / 'recipe.yaml').read_text())

old = jaxsparse.from_recipe({'pruning': {'approach': {
    'weight_compression_pytorch': {
        'target_sparsity': 0.5, 'start_step': 1, 'end_step': end,
        'pruners': [{'prune_type': 'snip_momentum', 'pattern': '2:4',
                     'names': ['first', 'second']}]}}}}, total_steps=STEPS)
print(*old.messages, sep='\n')

# %% [markdown]
# ## 3. Hooks
#
# A loop over a module and its optimizer that knows nothing of sparsity. The
# hooks put the sparse point into the model before the gradient is taken, and
# the dense point back before the update.

# %%
model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
hooks = jaxsparse.Hooks(model, optimizer)
gradients = nnx.jit(nnx.grad(model_loss))
update = nnx.jit(lambda optimizer, model, grads: optimizer.update(model, grads))


def train_fn(hooks):
  hooks.on_epoch_begin(0)
  for batch in batches:
    hooks.on_step_begin(batch)
    grads = gradients(model, batch)
    hooks.on_before_optimizer_step()
    update(optimizer, model, grads)
    hooks.on_step_end()
  hooks.on_epoch_end()


hooks.fit(train_fn)
print('test accuracy, hooks:', accuracy(nnx.state(model, nnx.Param)))
agreement = np.mean([float((m == n).mean()) for m, n in zip(
    jax.tree.leaves(masks), jax.tree.leaves(hooks.masks))])
print(f'masks that agree: {agreement:.2%}')

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout='constrained')
for axis, name in zip(axes, ('first', 'second')):
  axis.imshow(np.asarray(masks[name]['kernel'][...]).T, cmap='Blues',
              vmin=-0.2, interpolation='nearest')
  axis.set(title=f'{name}/kernel, 80% of its blocks pruned', xlabel='input',
           ylabel='output')
plt.show()

# %% [markdown]
# ## Group Lasso, then slim
#
# A tie is a hidden unit with all its weights: what makes it, its bias, what
# reads it. The proximal step of group Lasso lands whole units on exactly zero,
# and `slim` cuts them out. No mask is needed.

# %%
ties = jaxsparse.infer_ties(apply, new_params, x_train[:2])
shrinking = optax.chain(optax.adam(3e-3), jaxsparse.units.prox_group_lasso(
    1.0, jaxsparse.units.neurons(ties), learning_rate=3e-3))
params, _ = train(jaxsparse.sparsify(
    shrinking, jaxsparse.units.prune_vanished(ties)), new_params)
small = jaxsparse.slim(params, ties, jaxsparse.alive(params, ties))
shapes = lambda params: {name: params[name]['kernel'].shape
                         for name in ('first', 'second', 'head')}
print('group Lasso:', accuracy(params), '->', accuracy(small), shapes(small))

# %% [markdown]
# ## Gradient sensitivity, then slim
#
# How much would the loss miss a unit? That is the gradient with respect to a
# mask of ones on it, which one signed product a weight gives without a mask.
# Half of the neurons of each layer go, and the smaller network trains on.

# %%
params, _ = train(jaxsparse.sparsify(
    optax.adam(3e-3), jaxsparse.prune({'.*': None})), new_params)
found = jaxsparse.units.sensitivity(loss_fn, params, batches[:20], ties)
neurons = jaxsparse.units.neurons(ties)
keep = jaxsparse.units.keep_units(found, neurons, sparsity=0.5)
small = jaxsparse.slim(params, ties, keep)
print('dense:', accuracy(params), shapes(params))
print('half of the neurons:', accuracy(small), shapes(small))
small, _ = train(jaxsparse.sparsify(
    optax.adam(1e-3), jaxsparse.prune({'.*': None})), small)
print('trained on:', accuracy(small))

fig, axis = plt.subplots(figsize=(7, 3), layout='constrained')
for tie in neurons:
  axis.plot(np.sort(np.asarray(found[tie.name]))[::-1],
            label=tie.members[0].path)
axis.set(xlabel='neuron, by rank', ylabel='sensitivity')
axis.legend(frameon=False)
plt.show()
