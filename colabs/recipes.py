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
# This notebook prunes 80% of blocks of four outputs by SNIP-momentum, the
# default of Neural Compressor, in three ways: with **functions**, with a
# **recipe** in YAML, and with **hooks** in a training loop without any code for
# sparsity. All three give the same masks, bit for bit. Then it shows the other
# two methods of Neural Compressor, group Lasso and gradient sensitivity, which
# remove whole neurons. It takes about a minute on two CPU cores.
# `quickstart.ipynb` explains the train step.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

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

import common  # What the notebooks of this folder share.
import jaxsparse

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## Digits, a network, and batches
#
# The data are the 1,797 handwritten digits of scikit-learn. All trainings use
# the same batches in the same order.

# %%
x_train, x_test, y_train, y_test = map(np.asarray, common.load_digits())
draws = np.random.default_rng(0).integers(len(x_train), size=(STEPS, 128))
batches = [(x_train[rows], y_train[rows]) for rows in draws]


def new_model():
  return common.MLP(64, 64, rngs=nnx.Rngs(0))


apply, new_params = common.functional(new_model())


def loss_fn(params, batch):
  x, labels = batch
  return common.cross_entropy(apply(params, x), labels)


def accuracy(params):
  return f'{common.accuracy(apply(params, x_test), y_test):.1%}'


# %% [markdown]
# ## 1. Functions
#
# A rule consists of a pattern, a score, a distribution and a schedule, and
# works with any optax optimizer. `last_kernels` finds the last layer of the
# model, which stays dense.

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
  train_step = jax.jit(common.train_step(tx, loss_fn))
  opt_state = jax.jit(tx.init)(params)
  for batch in batches:
    params, opt_state, _ = train_step(params, opt_state, batch)
  return params, opt_state


params, opt_state = train(tx, new_params)
masks = jaxsparse.get_masks(opt_state)
print(jaxsparse.summary(params, masks))
print('test accuracy, functions:', accuracy(params))

# %% [markdown]
# ## 2. A recipe
#
# A recipe describes the same pruning as data. As in Neural Compressor's files,
# blocks are written outputs x inputs. `'2:4'` *keeps* two of four. A misspelt
# key is an error that suggests the right one.

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
recipe = jaxsparse.from_recipe(
    folder / 'prune.yaml', total_steps=STEPS, exclude=last)
params, opt_state = train(recipe.sparsify(optax.adam(3e-3)), new_params)
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
# `to_recipe` writes the whole recipe with all defaults, for example beside a
# checkpoint. `from_recipe` also reads files of Neural Compressor, and
# `messages` lists the keys that have another meaning here.

# %%
jaxsparse.recipes.to_recipe(recipe, folder / 'recipe.yaml')
print((folder / 'recipe.yaml').read_text())

old = jaxsparse.from_recipe({'pruning': {'approach': {
    'weight_compression_pytorch': {
        'target_sparsity': 0.5, 'start_step': 1, 'end_step': end,
        'pruners': [{'prune_type': 'snip_momentum', 'pattern': '2:4',
                     'names': ['hidden']}]}}}}, total_steps=STEPS)
print(*old.messages, sep='\n')

# %% [markdown]
# ## 3. Hooks
#
# The loop trains a module with its optimizer, and its code has nothing about
# sparsity. The hooks move the model to the sparse point before the gradient is
# taken, and back to the dense point before the update.

# %%
model = new_model()
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
hooks = jaxsparse.Hooks(model, optimizer)
gradients = nnx.jit(nnx.grad(
    lambda model, batch: common.cross_entropy(model(batch[0]), batch[1])))
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
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
for axis, (layer, mask) in zip(axes, masks['hidden'].items()):
  axis.imshow(np.asarray(mask['kernel'][...]).T)
  axis.set(title=f'hidden/{layer}/kernel, 80% of its blocks pruned',
           xlabel='input', ylabel='output')
plt.show()

# %% [markdown]
# ## Group Lasso, then slim
#
# A tie names the axes that index the same hidden units: in the kernel that
# makes the units, in their biases, and in the kernels that read them. The
# proximal step of group Lasso sets whole units to exactly zero, `prune_units`
# keeps them at zero, and `slim` removes them.

# %%
ties = jaxsparse.infer_ties(apply, new_params, x_train[:2])
neurons = jaxsparse.units.neurons(ties)
shrinking = optax.chain(
    optax.adam(3e-3),
    jaxsparse.units.prox_group_lasso(1.0, neurons, learning_rate=3e-3))
vanished = jaxsparse.units.prune_units(
    neurons, importance=jaxsparse.units.root_mean_square(), threshold=0.)
params, _ = train(jaxsparse.sparsify(shrinking, vanished), new_params)
small = jaxsparse.slim(params, ties, jaxsparse.alive(params, ties))


def shapes(params):
  """The shapes of all kernels, from the first to the head's."""
  return [layer['kernel'].shape
          for layer in (*params['hidden'].values(), params['head'])]


print('group Lasso:', accuracy(params), '->', accuracy(small), shapes(small))

# %% [markdown]
# ## Gradient sensitivity, then slim
#
# The importance of a unit for the loss is the gradient with respect to a mask
# of ones on the unit. It equals the sum of weight times gradient over the
# weights that read the unit, so the model needs no mask. Half of the neurons of
# each layer are removed, and the smaller network is trained further.

# %%
params, _ = train(jaxsparse.sparsify(
    optax.adam(3e-3), jaxsparse.prune({'.*': None})), new_params)
found = jaxsparse.units.sensitivity(loss_fn, params, batches[:20], ties)
keep = jaxsparse.units.keep_units(found, neurons, sparsity=0.5)
small = jaxsparse.slim(params, ties, keep)
print('dense:', accuracy(params), shapes(params))
print('half of the neurons:', accuracy(small), shapes(small))
small, _ = train(jaxsparse.sparsify(
    optax.adam(1e-3), jaxsparse.prune({'.*': None})), small)
print('trained on:', accuracy(small))

figure, axis = plt.subplots(figsize=(7, 3))
for tie in neurons:
  bias = next(m.path for m in tie.members if m.path.endswith('bias'))
  axis.plot(np.sort(np.asarray(found[tie.name]))[::-1],
            label=f'units of {bias}')
axis.set(xlabel='neuron, by rank', ylabel='sensitivity')
axis.legend()
plt.show()
