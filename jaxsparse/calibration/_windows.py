"""`reconstruct`: trains windows of a pruned model to match the dense model."""

import collections
import functools
import re
from typing import Any, Callable, Iterable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import flows
from jaxsparse import rules
from jaxsparse import transform
from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _blocks
from jaxsparse.calibration import _stages
from jaxsparse.graph import slices
from jaxsparse.graph.segments import Chain
from jaxsparse.graph.segments import Leaf
from jaxsparse.graph.segments import Program
from jaxsparse.graph.segments import Segment

_NO_STATISTICS = rf'(?!{_stages.STATISTICS}$).*'


class ReconstructState(NamedTuple):
  """The progress of `reconstruct`: a tree of arrays.

  Attributes:
    params: the parameters, with finished windows trained.
    before: the loss of each finished window before its training.
    after: the loss of each finished window after its training.
    done: the number of finished windows.
  """
  params: ArrayTree
  before: Sequence[jax.Array]
  after: Sequence[jax.Array]
  done: int | jax.Array


@arguments.checked(state=arguments.state(ReconstructState),
                   steps=arguments.step(1, '100'))
def reconstruct(fn: Callable[..., Any], params: ArrayTree, masks: ArrayTree,
                batches: Iterable[Any], *, dense: ArrayTree,
                steps: int = 100,
                optimizer: optax.GradientTransformation | None = None,
                block: _blocks.Block = _blocks.BEFORE_NUMBER,
                which: str = _NO_STATISTICS,
                progress: _stages.Progress | None = None,
                state: ReconstructState | None = None,
                save: Callable[[ReconstructState], Any] | None = None
                ) -> ArrayTree:
  """Trains a pruned model window by window to match the dense activations.

    loss = mean over arrays y of a window's outputs of |y - z|^2 / |z|^2

  `z` is the same array in the dense model. `y` is computed from data that come
  through the earlier windows, which are trained already. A window is a block of
  the model, with its nonlinearities (for a single matrix, use `refit`).
  Training covers the kept weights, biases and norms that only this window
  reads, in float32. Weights that the masks prune stay at zero. A window whose
  loss over all batches does not fall keeps its old weights.

  The function is cut between windows as in `one_shot`. Each layer of a scan is
  a window. Equal windows are compiled once.

  Args:
    fn: the function `fn(params, *inputs)` of the model in evaluation mode.
    params: the pruned parameters, from `one_shot`.
    masks: the masks of the parameters, from `one_shot`.
    batches: an iterable of batches of inputs; a tuple, but no NamedTuple, holds
      several arguments.
      Each step takes one batch.
    dense: the parameters before pruning.
    steps: the number of training steps of each window; steps cycle through the
      batches.
    optimizer: any optax optimizer; `None` is `optax.adam(1e-3)`.
    block: a regular expression whose first group is the name of a kernel's
      window, by default the path up to the first number; or a function from
      paths to names. Kernels without a match belong to the window before them.
      Layers of a scan are windows if their name has no number.
    which: a regular expression for the paths of parameters to train; by default
      all but running statistics: the paths under `batch_stats`, and those
      named `mean`, `var` or `variance`, with or without `running_` or
      `moving_`.
    progress: a function that wraps the iterable of windows, such as
      `tqdm.tqdm`.
    state: a state from `save`, to resume from.
    save: a function that is called with the state after each window.

  Returns:
    The trained parameters.

  Raises:
    ValueError: if there are no batches, masks do not fit the parameters, or
      weights are not zero where masks prune them.

  Warns:
    UserWarning: if a window keeps its old weights, or a kernel is not trained.

  References:
    Kwon et al., `A Free Lunch in LLM Compression: Revisiting Retraining after
    Pruning <https://arxiv.org/abs/2510.14444>`_, 2025. In the paper, windows
    with a nonlinearity work as well as training the whole model, and single
    matrices work worse.

  >>> import jaxsparse
  >>> keys = jax.random.split(jax.random.key(0), 3)
  >>> dense = {'up': jax.random.normal(keys[0], (8, 16)),
  ...          'down': jax.random.normal(keys[1], (16, 4))}
  >>> mlp = lambda p, x: jax.nn.relu(x @ p['up']) @ p['down']
  >>> x = jax.random.normal(keys[2], (64, 8))
  >>> pruned, masks = jaxsparse.one_shot(mlp, dense, [x], jaxsparse.nm(2, 4))
  >>> trained = reconstruct(mlp, pruned, masks, [x], dense=dense, steps=20,
  ...                       optimizer=optax.sgd(0.1))
  >>> error = lambda p: jnp.mean((mlp(p, x) - mlp(dense, x))**2)
  >>> bool(error(trained) < error(pruned))
  True
  """
  batches = _stages.batched(batches)
  masks = trees.nested_like(params, masks)
  trees.same_structure(params, masks)
  _check_pruned(params, masks)
  kernels = [path for path, _, mask in trees.align(params, masks)
             if not trees.is_dense(mask)]
  chains = _stages.chains(fn, params, batches, kernels, outputs=True)
  windows = _windows(chains[0], block)
  tx, kept = _locked(optimizer), {
      path: mask for path, _, mask in trees.align(params, masks)}
  leaves, treedef = jax.tree.flatten(params)
  if isinstance(state, dict):
    state = ReconstructState(**state)
  state = ReconstructState(
      params, (), (), 0) if state is None else state._replace(
          params=_stages.restored(params, state.params, 'params'))
  leaves = jax.tree.leaves(state.params)
  trees.check_arrays('dense', dense)
  trees.check_beside(params, dense)
  originals = jax.tree.leaves(dense)
  data, target = ([chain.start(*batch) for chain, batch in zip(
      chains, batches)] for _ in range(2))
  done = int(state.done)
  for number, window in enumerate((progress or iter)(windows)):
    goals = [_through(chain, window, originals, x)
             for chain, x in zip(chains, target)]
    if number >= done:
      leaves, before, after = _trained(
          chains, window, leaves, data, goals, tx, kept, steps, which)
      state = ReconstructState(
          jax.tree.unflatten(treedef, leaves), (*state.before, before),
          (*state.after, after), number + 1)
      if save is not None:
        save(state)
    data = [_through(chain, window, leaves, x)
            for chain, x in zip(chains, data)]
    target = goals
  return state.params


def _check_pruned(params: ArrayTree, masks: ArrayTree) -> None:
  """Raises if weights are not zero where masks prune them.

  The dense weights have a loss of zero, and would come back as they are.
  """
  for path, w, mask in trees.align(params, masks):
    if not trees.is_dense(mask) and bool(jnp.any(
        (jnp.asarray(w) != 0) & ~jnp.asarray(mask))):
      raise ValueError(
          f'{trees.named(path)}: params must be zero where masks prune, as '
          'those from one_shot, got others, such as the dense parameters. '
          'Write reconstruct(fn, apply_masks(params, masks), masks, batches, '
          'dense=params).')


@functools.lru_cache(maxsize=8)
def _locked(optimizer: optax.GradientTransformation | None
            ) -> optax.GradientTransformation:
  """The locked optimizer, cached so that its steps are compiled once.

  Its masks are those of a window: zeros would say nothing of a kernel that is
  wholly pruned, or of a bias with zeros.
  """
  return transform.sparsify(
      optax.adam(1e-3) if optimizer is None else optimizer, rules.lock({}),
      flows.hard())


def _windows(chain: Chain, block: _blocks.Block) -> list[range]:
  """The ranges of segments that form one window each."""
  found, last = [], None
  for number, segment in enumerate(chain.segments):
    names = [_blocks.name(block, leaf.path, [k for _, k in leaf.index])
             for leaf in segment.kernels]
    named = [name for name in names if name is not None]
    if not found or named and named[0] != last:
      found.append(range(number, number + 1))
    else:
      found[-1] = range(found[-1].start, number + 1)
    last = named[0] if named else last
  return found


def _through(chain: Chain, window: range, leaves: Sequence[Any],
             data: dict[int, Any]) -> dict[int, Any]:
  for number in window:
    segment = chain.segments[number]
    data = dict(zip(segment.gives, _stages.run(segment.rest, chain.values(
        segment.reads, leaves, data))))
  return data


class _Source(NamedTuple):
  """The programs of a window, and the numbers of the arrays they use.

  Attributes:
    programs: each program, with the numbers of its inputs and of its outputs.
    trained: the numbers of arrays that are trained.
    dtypes: the dtypes of the trained arrays in the model.
    fixed: the numbers of other arrays made of parameters.
    data: the numbers of the data before the window.
    gives: the numbers of the data after the window.
  """
  programs: tuple[tuple[Program, tuple[int, ...], tuple[int, ...]], ...]
  trained: tuple[int, ...]
  dtypes: tuple[Any, ...]
  fixed: tuple[int, ...]
  data: tuple[int, ...]
  gives: tuple[int, ...]


def _source(chain: Chain, window: range, mine: Sequence[int]
            ) -> tuple[_Source, list[int], list[int]]:
  """A window whose arrays are numbered anew, so that equal windows are equal.

  Returns:
    The source, and the chain's numbers of its fixed arrays and of its data.
  """
  parts: list[Segment] = [chain.segments[number] for number in window]
  there: dict[int, int] = {}
  for segment in parts:
    for i in (*segment.reads, *segment.gives):
      there.setdefault(i, len(there))
  made = {i for segment in parts for i in segment.gives}
  reads = _reads(chain, window)
  before = [i for i in reads if chain.is_data(i) and (
      i not in made or i in parts[0].reads)]
  fixed = [i for i in reads if not chain.is_data(i) and i not in mine]
  numbers = lambda some: tuple(there[i] for i in some)
  return _Source(
      tuple((s.rest, numbers(s.reads), numbers(s.gives)) for s in parts),
      numbers(mine), tuple(chain.dtype(i) for i in mine), numbers(fixed),
      numbers(before),
      numbers(parts[-1].gives)), fixed, before


def _trained(chains: Sequence[Chain], window: range, leaves: list[Any],
             data: Sequence[dict[int, Any]], goals: Sequence[dict[int, Any]],
             tx: optax.GradientTransformation, kept: dict[str, Any], steps: int,
             which: str) -> tuple[list[Any], jax.Array, jax.Array]:
  """The leaves with a window trained, and its losses before and after."""
  chain = chains[0]
  mine = _own(chain, window, leaves, which)
  given = []
  for one, x, goal in zip(chains, data, goals):
    # Batches of other shapes may number their arrays differently.
    numbers = {one.leaf(i): i for i in _reads(one, window)}
    source, fixed, before = _source(
        one, window, [numbers[known] for known in mine.values()])
    given.append((source, one.values(fixed, leaves, {}),
                  [x[i] for i in before],
                  [goal[i] for i in one.segments[window[-1]].gives]))
  first = [numerics.wide(w) for w in chain.values(mine, leaves, {})]
  before = _total(given, first)
  opt_state = jax.jit(tx.init)(first)
  opt_state = opt_state._replace(rule=opt_state.rule._replace(masks=[
      None if trees.is_dense(kept[leaf.path]) else slices.take(
          jnp.asarray(kept[leaf.path]), leaf.index).transpose(order)
      for leaf, order in mine.values()]))
  weights = first
  for step in range(steps):
    source, *arrays = given[step % len(given)]
    weights, opt_state = _step(source, tx, weights, opt_state, *arrays)
  after = _total(given, weights)
  if not after < before:
    if before > 0:
      warning.warn(
          f'The window with {chain.segments[window[0]].kernels[0].path} keeps '
          f'its old weights: its loss was {float(before):.3g}, and is '
          f'{float(after):.3g} after {steps} steps. Give an optimizer with a '
          'lower learning rate, or more steps.')
    return leaves, before, before
  leaves = list(leaves)
  for (leaf, order), w in zip(mine.values(), weights):
    at = chain.names.index(leaf.path)
    leaves[at] = slices.put(jnp.asarray(leaves[at]), w.transpose(
        np.argsort(order)), leaf.index)
  return leaves, before, after


def _reads(chain: Chain, window: range) -> list[int]:
  return [*dict.fromkeys(
      i for number in window for i in chain.segments[number].reads)]


def _own(chain: Chain, window: range, leaves: Sequence[Any], which: str
         ) -> dict[int, tuple[Leaf, tuple[int, ...]]]:
  """The leaves that only this window reads, and the order of their axes.

  These are floating leaves that are read unchanged, cast, or transposed.
  """
  elsewhere = {leaf for number, segment in enumerate(chain.segments)
               if number not in window for leaf in segment.leaves}
  kernels = {leaf for number in window
             for leaf in chain.segments[number].kernels}
  found = {}
  for i in _reads(chain, window):
    leaf, order = chain.leaf(i) or (None, ())
    if leaf is None or leaf in elsewhere or not re.fullmatch(which, leaf.path):
      continue
    w = slices.take(jnp.asarray(leaves[chain.names.index(leaf.path)]),
                    leaf.index)
    value, = chain.values([i], leaves, {})
    if jnp.issubdtype(w.dtype, jnp.floating) and value.shape == tuple(
        w.shape[axis] for axis in order) and bool(
            (w.transpose(order).astype(value.dtype) == value).all()):
      found[i] = leaf, order
  # A leaf that is read in two forms would have to change in both.
  number = collections.Counter(leaf for leaf, _ in found.values())
  found = {i: known for i, known in found.items() if number[known[0]] == 1}
  if left := kernels - {leaf for leaf, _ in found.values()}:
    warning.warn(
        f'{trees.few(sorted({leaf.path for leaf in left}))} of a window '
        f'{"are" if len(left) > 1 else "is"} not trained: a parameter is '
        'skipped if it is changed before the product other than by casts and '
        'transposes, if several windows read it, or if `which` leaves it out.')
  return found


def _loss(source: _Source, weights: Sequence[jax.Array],
          fixed: Sequence[jax.Array], data: Sequence[jax.Array],
          goals: Sequence[jax.Array]) -> jax.Array:
  weights = [w.astype(dtype) for w, dtype in zip(weights, source.dtypes)]
  known = dict(zip((*source.trained, *source.fixed, *source.data),
                   (*weights, *fixed, *data)))
  for program, reads, gives in source.programs:
    known.update(zip(gives, program.run([known[i] for i in reads])))
  losses = []
  for i, goal in zip(source.gives, goals):
    if jnp.issubdtype(goal.dtype, jnp.floating):
      goal, got = numerics.wide(goal), numerics.wide(known[i])
      losses.append(jnp.sum((got - goal)**2) / jnp.maximum(
          jnp.sum(goal**2), jnp.finfo(goal.dtype).tiny))
  return sum(losses, jnp.float32(0)) / max(len(losses), 1)


_loss_of = jax.jit(_loss, static_argnums=0)


def _total(given: Sequence[Any], weights: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack([_loss_of(source, weights, *arrays)
                    for source, *arrays in given]).mean()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(source: _Source, tx: optax.GradientTransformation,
          weights: Sequence[jax.Array], opt_state: ArrayTree,
          *arrays: Sequence[jax.Array]) -> tuple[Any, Any]:
  grads = jax.grad(_loss, 1)(source, weights, *arrays)
  updates, opt_state = tx.update(grads, opt_state, weights)
  return optax.apply_updates(weights, updates), opt_state
