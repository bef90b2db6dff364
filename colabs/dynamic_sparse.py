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
# # Dynamic sparse training, and a smaller network at the end
#
# This notebook trains one small convolutional network with three methods of
# **dynamic sparse training**, and shows where they place their weights. A
# fourth method, **Chase**, empties whole channels. These channels are then
# removed, which leaves an ordinary smaller network. It takes five minutes on
# two CPU cores.
#
# Dynamic sparse training has 10% of the weights from the first step to the
# last. From time to time it drops the smallest weights and grows as many
# elsewhere, so connections move.
#
# This is **one seed, a small network and an easy data set**: it shows the
# behaviour of the methods, but does not rank them. `quickstart.ipynb` explains
# the train step.
#
# On Colab, run this first:
#
# ```
# !git clone <address of the repository> jaxsparse
# %cd jaxsparse/colabs
# %pip install -q '..[experiments]'
# ```

# %% tags=["parameters"]
STEPS = 800  # Per method; compiling it takes longer than running it.
REPEATS = 100  # Of each time that is measured.

# %%
import time
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import common  # What the notebooks of this folder share.
import jaxsparse

plt.rcParams.update(common.PLOT_STYLE)

# %% [markdown]
# ## A network with batch norm
#
# The network has four convolutions of 16 to 64 channels, for images of 8 x 8
# pixels; 500 images are held out. It takes its widths from the shapes of its
# arrays (a mean over pixels instead of a reshape to a fixed size), so the same
# code runs with fewer channels.
#
# Batch norms have running averages, which are not parameters of the optimizer.
# For evaluation, `logits` takes parameters and averages in one tree, because
# removing a channel also removes its averages.

# %%
x_train, x_test, y_train, y_test = common.load_digits()
x_train, x_test = (x.reshape(-1, 8, 8, 1) for x in (x_train, x_test))


class Net(nnx.Module):
  def __init__(self, rngs, widths=(16, 32, 32, 64)):
    self.convs = nnx.List([
        nnx.Conv(before, after, (3, 3), use_bias=False, rngs=rngs)
        for before, after in zip((1, *widths), widths)])
    self.norms = nnx.List([
        nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in widths])
    self.head = nnx.Linear(widths[-1], 10, rngs=rngs)

  def __call__(self, x, train=False):
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
      x = nnx.relu(norm(conv(x), use_running_average=not train))
      if i in (0, 2):
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
    return self.head(x.mean((1, 2)))


graphdef, initial_params, initial_averages = nnx.split(
    Net(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


@jax.jit
def logits(variables, x):
  return nnx.merge(graphdef, variables, copy=True)(x)


def accuracy(variables):
  return common.accuracy(logits(variables, x_test), y_test)


# %% [markdown]
# ## The train step
#
# The step has one additional line, and is the same for all methods: the
# optimizer's state holds the masks, and `tx.update` moves connections at some
# steps. Training starts at the sparse point. `observe` measures without
# changing the training. The loop is a Python loop, because convolutions inside
# of `lax.scan` are slow on CPUs.

# %%
class Run(NamedTuple):
  """The end of a training, and some forty looks at it on the way."""
  variables: Any  # Params, zeros where pruned, and averages.
  steps: list[int]
  masks: list[Any]
  observed: list[dict[str, Any]]  # Statistics by layer; none if dense.


def train(method, params, averages, *, steps=STEPS, learning_rate=1e-2):
  """Trains with a method; returns a `Run`."""
  schedule = optax.cosine_decay_schedule(learning_rate, steps)
  tx = jaxsparse.observe(jaxsparse.sparsify(optax.adam(schedule), method))

  @jax.jit
  def train_step(params, averages, opt_state, step):
    key = jax.random.fold_in(jax.random.key(0), step)
    batch = jax.random.choice(key, len(x_train), (64,))

    def loss_fn(params):
      model = nnx.merge(graphdef, params, averages, copy=True)
      loss = common.cross_entropy(
          model(x_train[batch], train=True), y_train[batch])
      return loss, nnx.state(model, nnx.BatchStat)

    sparse = jaxsparse.sparse_params(params, opt_state)  # <- the one line
    grads, averages = jax.grad(loss_fn, has_aux=True)(sparse)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), averages, opt_state

  opt_state = tx.init(params)
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state))
  seen = []
  for step in range(1, steps + 1):
    params, averages, opt_state = train_step(params, averages, opt_state, step)
    if step % max(steps // 40, 1) == 0 or step == steps:
      seen.append(jax.device_get((step, jaxsparse.get_masks(opt_state),
                                  jaxsparse.observed(opt_state))))
  sparse = jaxsparse.sparse_params(params, opt_state)
  return Run(nnx.merge_state(sparse, averages), *zip(*seen))


# %% [markdown]
# ## Three methods at 90%
#
# All three methods drop the smallest weights of a layer. They differ in the
# weights that they grow, and in the steps at which they exchange weights:
#
# * **SET** grows at random, 30% of the weights each time, until the end.
# * **RigL** grows the pruned weights with the largest gradients. It starts with
#   30% and exchanges fewer and fewer weights until 75% of training. A step that
#   moves connections does not update weights.
# * **RigL-ITOP** ("in time") waits five times as long, and then exchanges up to
#   half of the weights. New weights have time to grow before the next exchange.
#
# All methods use the same densities of layers, `erk`, which prunes large layers
# more, and does not prune the first layer and the head, because these are tiny.
# These two still have masks, which Chase needs later.

# %%
patterns = {'.*kernel': jaxsparse.unstructured()}
every = max(STEPS // 40, 4)
sparsity = jaxsparse.erk(0.9)
methods = {
    'dense': jaxsparse.methods.ste({'.*': None}, STEPS),
    'SET': jaxsparse.methods.set_training(
        patterns, sparsity, STEPS, every=every),
    'RigL': jaxsparse.methods.rigl(patterns, sparsity, STEPS, every=every),
    'RigL-ITOP': jaxsparse.methods.rigl_itop(
        patterns, sparsity, STEPS, every=5 * every),
}
sparse_methods = [name for name in methods if name != 'dense']
runs = {name: train(method, initial_params, initial_averages)
        for name, method in methods.items()}
print(jaxsparse.summary(initial_params, runs['RigL'].masks[-1]))

# %% [markdown]
# ## Cost and accuracy
#
# *Gradients* is the mean density of the gradients of weights that a method
# uses. Most steps need only gradients of kept weights; RigL needs all gradients
# whenever it grows. `flops` counts products from the function itself. More than
# 10% of them remain, because the first layer stays dense, and the large layers,
# which `erk` prunes most, process few pixels. The saved products *could* be
# skipped by suitable hardware; nothing runs faster here.

# %%
counted = jaxsparse.flops(logits, runs['dense'].variables, x_train[:64])


def mean_over_weights(run, field, at=-1):
  """A statistic of all sparse layers, or 1 if there are none."""
  sizes = [mask.size for mask in jax.tree.leaves(run.masks[at])]
  values = [getattr(s, field) for s in run.observed[at].values()]
  return np.average(values, weights=sizes) if values else 1.


def training_flops(run):
  layers = run.observed[-1].items()
  return counted.training(
      forward={path: seen.forward for path, seen in layers},
      gradient={path: seen.gradient for path, seen in layers})


def print_runs():
  common.print_table(
      ['method', 'test accuracy', 'gradients', 'training FLOPs', 'explored'],
      [(name, f'{accuracy(run.variables):.1%}',
        f'{mean_over_weights(run, "gradient"):.1%}',
        f'{training_flops(run) / counted.training():.1%}',
        f'{mean_over_weights(run, "explored"):.1%}')
       for name, run in runs.items()])


print_runs()

# %% [markdown]
# Do not rank methods by these accuracies: **one image in 500 is 0.2 points**,
# and the same dense training on other batches differed by three images. At 800
# steps all methods are within a few images of each other, because a network of
# this size has more weights than digits need. For a comparison use harder data
# and several seeds, `python -m experiments.sweep`.
#
# ## Exploration
#
# The *exploration rate* R_s is the share of weights that were kept at any step.
# According to the paper of ITOP, a high rate over a long training makes sparse
# training good. Here SET has the highest rate, because it never stops and grows
# at random. RigL levels off as its exchanges become smaller. RigL-ITOP is made
# for long trainings: in a short one it makes only a few exchanges, and at 800
# steps it explored *least*.

# %%
figure, axis = plt.subplots(figsize=(7, 3.4))
for name in sparse_methods:
  run = runs[name]
  axis.plot(run.steps, [100 * mean_over_weights(run, 'explored', i)
                        for i in range(len(run.steps))], label=name)
axis.axhline(10, color='0.5', linestyle=':')
axis.set(xlabel='step', ylabel='%', ylim=(0, 100),
         title='weights that were ever kept')
axis.legend()
plt.show()

# %% [markdown]
# ## Where the weights go
#
# The methods do not ask for structured sparsity, but some structure may arise.
# In the figure each row is a layer, and each cell an output channel, sorted by
# density; the color is the density relative to the layer. The first masks are
# random, so all channels are similar. (The first layer is dense and stays
# uniform.)

# %%
def channel_densities(masks):
  """The densities of output channels, each layer's in descending order."""
  kernels = [conv['kernel'][...] for conv in masks['convs'].values()]
  return [np.sort(mask.mean((0, 1, 2)))[::-1] for mask in kernels]


first_masks = jax.device_get(methods['RigL'].rule.init(initial_params).masks)
pictures = {'at first': first_masks} | {
    name: runs[name].masks[-1] for name in sparse_methods}
figure, axes = plt.subplots(2, 2, figsize=(10, 4))
for axis, (name, masks) in zip(axes.flat, pictures.items()):
  rows = channel_densities(masks)
  image = np.full((len(rows), max(map(len, rows))), np.nan)
  for row, densities in zip(image, rows):
    row[:len(densities)] = densities / densities.mean()
  drawn = axis.imshow(image, cmap='viridis', vmin=0, vmax=2, aspect='auto')
  axis.set(title=name, yticks=range(len(rows)), ylabel='layer')
figure.colorbar(drawn, ax=axes, label='density / that of the layer')
plt.show()

print('the emptiest channel of each layer, relative to its layer')
common.print_table(
    ['method', *(f'layer {i}' for i in range(len(initial_params['convs'])))],
    [(name, *(f'{densities[-1] / densities.mean():.0%}'
              for densities in channel_densities(masks)))
     for name, masks in pictures.items()])

# %% [markdown]
# At 800 steps, SET has changed the densities little, while under RigL some
# channels gained weights and others lost them. But a channel can be removed
# only when all of its weights are gone, and no channel lost all of them in such
# a short training. Chase prunes whole channels.
#
# ## Chase: whole channels are pruned
#
# A channel is more than a slice of one kernel. `infer_ties` finds in the
# function all arrays that belong to a channel: the kernel that makes it, its
# norm and running averages, and the kernels that read it. The window of a
# kernel and the classes cannot be pruned.

# %%
ties = jaxsparse.infer_ties(logits, runs['dense'].variables, x_train[:8])
print(ties)

# %% [markdown]
# Chase is similar to RigL, but all layers compete with each other, and it
# prunes more and more channels, those with the smallest mean magnitude. Their
# weights are pruned in the layer that makes them and in the layers that read
# them, and as many weights grow elsewhere. By 80% of training, 40% of all
# channels are pruned. `floor=0.5` keeps at least part of every layer.

# %%
methods['Chase'] = jaxsparse.methods.chase(
    patterns, sparsity, STEPS, ties=ties, channel_sparsity=0.4, floor=0.5,
    every=every, prune_every=every)
runs['Chase'] = train(methods['Chase'], initial_params, initial_averages)
print_runs()

# %% [markdown]
# Chase needs more FLOPs than the other methods. It starts with more weights,
# and competition between layers moves weights to early layers, which process
# more pixels.
#
# Left: the share of channels alive. Channels of all layers compete, so not
# every layer loses 40%. Layers with many small weights lose most, down to their
# floor, whatever their share of the FLOPs. Right: the total number of kept
# weights. Chase starts above its budget and follows a schedule down, which
# helps exploration. Pruned channels do not change the total, because other
# channels get their weights.

# %%
run = runs['Chase']
channels = [tie for tie in ties if not (tie.fixed or tie.kept)]
ones = jax.tree.map(jnp.ones_like, initial_params)


def alive_shares(masks):
  """The share of channels alive, layer by layer, as far as masks tell."""
  variables = nnx.merge_state(
      jaxsparse.apply_masks(ones, masks), initial_averages)
  keep = jaxsparse.alive(variables, ties)
  return [keep[tie.name].mean() for tie in channels]


def weights_kept(masks):
  return sum(int(mask.sum()) for mask in jax.tree.leaves(masks))


figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3), width_ratios=(3, 2))
drawn = left.imshow(
    np.transpose([alive_shares(masks) for masks in run.masks]), vmin=0, vmax=1,
    aspect='auto', extent=(0, STEPS, len(channels) - 0.5, -0.5))
left.set(xlabel='step', ylabel='layer', yticks=range(len(channels)),
         title='share of channels alive')
figure.colorbar(drawn, ax=left)
for name in ('Chase', 'RigL'):
  right.plot(runs[name].steps, [*map(weights_kept, runs[name].masks)],
             label=name)
right.set(xlabel='step', title='weights kept', ylim=(0, None))
right.legend()
plt.show()
print(f'weights at the end: {weights_kept(run.masks[-1]):,}, of RigL '
      f'{weights_kept(runs["RigL"].masks[-1]):,}')

# %% [markdown]
# ## Removing channels
#
# `alive` finds the channels that nothing reads any more, and `slim` removes
# them from all arrays of a tree. `fold_constants` comes first: a channel
# without weights may still have a nonzero output, the `relu` of its norm's
# bias. If this output is the same constant wherever it is read,
# `fold_constants` adds it to the biases of the layers that read it.

# %%
def cut(variables):
  """Prints each step; returns a smaller network with the same outputs."""
  folded = jaxsparse.units.fold_constants(logits, variables, ties, x_test[:8])
  keep = jaxsparse.alive(folded.params, ties)
  smaller = jaxsparse.slim(folded.params, ties, keep)
  print(folded if folded.folded or folded.left else 'no constants to fold')
  print('channels left:', *(f'{keep[t.name].sum()} of {t.size}  '
                            for t in channels))
  before, after = (logits(v, x_test) for v in (variables, smaller))
  error = jnp.abs(before - after).max() / jnp.abs(before).max()
  print(f'relative difference of outputs: {error:.0e}')
  return smaller


masked = runs['Chase'].variables
slimmed = cut(masked)
print('\nkernels before and after:')
for before, after in zip(masked['convs'].values(), slimmed['convs'].values()):
  print(before['kernel'].shape, after['kernel'].shape)
print(masked['head']['kernel'].shape, slimmed['head']['kernel'].shape)

# %% [markdown]
# Chase also prunes the weights that read a dead channel, so it rarely leaves
# constants. Other methods of pruning do. As an example, keep 2% of the weights
# of the dense network in one shot, which ruins its accuracy: channels whose own
# weights are all pruned may still be read. Such channels before the head can be
# folded. Channels before a convolution cannot be folded unless their output is
# zero, because the padding of a convolution reads zeros instead of the constant
# at the borders.

# %%
dense_params, dense_averages = nnx.split_state(
    runs['dense'].variables, nnx.Param, ...)
rule = jaxsparse.prune(patterns, distribution=jaxsparse.erk(0.98))
pruned = jaxsparse.apply_masks(dense_params, rule.init(dense_params).masks)
_ = cut(nnx.merge_state(pruned, dense_averages))

# %% [markdown]
# ## Smaller, and faster?
#
# Masked weights are zeros in arrays of the same size, and save no time unless
# kernels skip them. The slimmed network is dense and small, so it takes less
# time on any hardware. The networks are timed alternately, and the table has
# the medians, **for this machine and this toy size**, for which products take
# only a part of the time.

# %%
def median_times(*networks):
  """Seconds that networks take for the test images; the first is warm-up."""
  times = []
  for _ in range(REPEATS + 1):
    times.append([])
    for variables in networks:
      start = time.perf_counter()
      logits(variables, x_test).block_until_ready()
      times[-1].append(time.perf_counter() - start)
  return np.median(times[1:], axis=0)


masks = runs['Chase'].masks[-1]
slimmed_flops = jaxsparse.flops(logits, slimmed, x_train[:64])
slimmed_params, slimmed_averages = nnx.split_state(slimmed, nnx.Param, ...)
parameters = [sum(x.size for x in jax.tree.leaves(params))
              for params in (initial_params, slimmed_params)]
seconds = median_times(masked, slimmed)
common.print_table(
    ['network', 'parameters', 'FLOPs', 'milliseconds'],
    [(name, f'{size:,}', f'{flops.total / counted.total:.0%}',
      f'{1e3 * spent:.2f}')
     for name, size, flops, spent in zip(
         ('masked', 'slimmed'), parameters, (counted, slimmed_flops), seconds)])
print(f'FLOPs if every masked weight were skipped: '
      f'{counted.forward(masks) / counted.total:.0%}')

# %% [markdown]
# Skipping every zero would save far more than removing channels, but needs
# hardware or kernels that skip zeros. Most entries of the slimmed arrays are
# still zero.
#
# ## Training the smaller network
#
# The slimmed network is an ordinary network: the same code with smaller arrays.
# Here it is trained dense for a quarter of the steps, so that zeros may become
# weights again.

# %%
print(f'slimmed: test accuracy {accuracy(slimmed):.1%}')
steps = max(STEPS // 4, 1)
tuned = train(jaxsparse.methods.ste({'.*': None}, steps), slimmed_params,
              slimmed_averages, steps=steps, learning_rate=1e-3)
print(f'trained on: test accuracy {accuracy(tuned.variables):.1%}')

# %% [markdown]
# ## Summary
#
# * At 90%, for 800 steps, all of these methods train this network on digits
#   about as well as dense training, with a fraction of the products *if* the
#   hardware skips zeros.
# * Random growth needs no dense gradients. Growth by gradient needs them at
#   some steps, which costs little if exchanges are rare.
# * Chase turns part of the sparsity into whole channels, which can be removed
#   without changing the outputs. Magnitudes, not FLOPs, decide which layers
#   lose channels.
#
# `set_90.py`, `rigl_90.py` and `chase_90.py` in `experiments/configs/digits`
# each train another network with one command.
