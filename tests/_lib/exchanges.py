"""Numpy oracles of dynamic sparse training, and runs to hold against them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

import jaxsparse
from jaxsparse._utils import trees
from tests._lib.compiled import once

FREE = {'.*kernel': jaxsparse.unstructured()}
# Products with a power of two are exact, so numpy rounds where XLA does.
RATE = 0.125
SCALE = 2.**-6
SHAPES = {'a': (16, 8), 'b': (8, 4), 'c': (3, 3, 2, 4)}
_LARGEST = np.finfo(np.float32).max


def make_params(names='abc', shapes=SHAPES):
  """Kernels of different sizes and scales, and a dense bias for each."""
  return {
      name: {'kernel': (1. + i) * jax.random.normal(
          jax.random.key(i), shapes[name]),
             'bias': jnp.zeros(shapes[name][-1])}
      for i, name in enumerate(names)}


def make_grads(params, step):
  """A pull to a target, with noise; dense."""
  def of_leaf(i, w):
    key = jax.random.fold_in(jax.random.key(7), i)
    target, noise = (jax.random.normal(jax.random.fold_in(key, n), w.shape)
                     for n in (0, step + 1))
    return w - target + 0.5 * noise
  leaves, structure = jax.tree.flatten(params)
  return structure.unflatten([of_leaf(i, w) for i, w in enumerate(leaves)])


def lay_out(tree, mesh, specs):
  """Puts arrays of a kernel's shape on a mesh by `specs`, all others whole."""
  return jax.tree.map(lambda x: jax.device_put(
      x, NamedSharding(mesh, specs.get(x.shape, PartitionSpec()))), tree)


def lie_as(tree, mesh, specs):
  """Whether all arrays of a kernel's shape lie on the mesh by `specs`."""
  return all(x.sharding.is_equivalent_to(
      NamedSharding(mesh, specs[x.shape]), x.ndim)
             for x in jax.tree.leaves(tree) if x.shape in specs)


class Step(NamedTuple):
  """What a step begins with; kernels are flat, by path."""
  params: Any
  state: Any
  weights: dict[str, np.ndarray]
  masks: dict[str, np.ndarray]
  grads: dict[str, np.ndarray] | None


def flat(tree):
  return {path: np.array(w).ravel() for path, w in zip(
      trees.paths(tree), jax.tree.leaves(tree)) if path.endswith('kernel')}


def run(tx, steps, *, params=None, grads=make_grads, place=None):
  """What each of `steps` steps begins with, and the last one ends with.

  The step is compiled once and writes over its arguments; `place` may change
  params and state between steps.
  """
  params = make_params() if params is None else params
  # Programs of single operations serve all methods. A copy, as the step may
  # write over each array once.
  state = jax.jit(functools.partial(jax.tree.map, jnp.copy))(tx.init(params))
  params = jaxsparse.apply_masks(params, jaxsparse.get_masks(state))

  def step(params, state, i):
    g = grads(params, i)
    updates, state = tx.update(g, state, params)
    return optax.apply_updates(params, updates), state, g
  step = once(step, donate_argnums=(0, 1))

  history = []
  copy = functools.partial(jax.tree.map, np.array)
  for i in range(steps + 1):
    if place:
      params, state = place(params, state)
    held = copy(params), copy(state)
    seen = None
    if i < steps:
      params, state, g = step(params, state, np.int32(i))
      seen = flat(g)
    history.append(Step(
        *held, flat(held[0]), flat(jaxsparse.get_masks(held[1])), seen))
  assert step._cache_size() == 1
  return history


def finite(x):
  """Infinities are the largest number, NaN is the lowest of all."""
  x = np.asarray(x, np.float64)
  return np.where(np.isnan(x), -_LARGEST, np.clip(x, -_LARGEST, _LARGEST))


def top(score, among, k):
  """The `k` highest of some; ties go to the lower index."""
  ranks = np.where(among, finite(score), -np.inf)
  chosen = np.zeros(ranks.size, bool)
  chosen[np.argsort(-ranks, kind='stable')[:min(k, among.sum())]] = True
  return chosen


def exchanged(mask, drop, grow, *, goes, to=None):
  """A flat mask after `goes` were dropped and all but `to` places filled."""
  stay = top(drop, mask, mask.sum() - goes)
  return stay | top(grow, ~stay, (mask.sum() if to is None else to)
                    - stay.sum())


def together(function, *dicts):
  """Calls `function` with all layers of each dict as one array; cuts again."""
  joined = [np.concatenate([*d.values()]) for d in dicts]
  parts = np.split(function(*joined), np.cumsum(
      [x.size for x in dicts[0].values()])[:-1])
  return dict(zip(dicts[0], parts))


def shares(total, weights, room):
  """Ideal real shares of a total, none beyond its room."""
  weights, room = np.asarray(weights, np.float64), np.asarray(room, np.float64)
  given, free = np.zeros(len(room)), room > 0
  while total - given.sum() > 1e-9 and free.any():
    mine = np.where(free, weights, 0.)
    mine = mine if mine.sum() > 0 else free.astype(float)
    ideal = np.where(free, (total - given[~free].sum()) * mine / mine.sum(), 0.)
    full = free & (ideal >= room)
    given = np.where(free, np.where(full, room, ideal), given)
    if not full.any():
      break
    given, free = np.where(free & ~full, 0., given), free & ~full
  return given


def cosine(step, end):
  return (1 + np.cos(np.pi * min(step / end, 1.))) / 2
