"""Whole models: their kernels are pruned in turn."""

from typing import Any, Callable, Iterable, Mapping, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import graph
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _kernels
from jaxsparse.calibration import _layouts
from jaxsparse.calibration._layouts import Layout
from jaxsparse.calibration._stages import Batch
from jaxsparse.calibration._stages import batched
from jaxsparse.calibration._stages import Data
from jaxsparse.calibration._stages import Progress
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import slices
from jaxsparse.graph.segments import Leaf
from jaxsparse.patterns import Pattern


class OneShotState(NamedTuple):
  """How far `one_shot` has come; a tree of arrays that a checkpoint can hold.

  Attributes:
    params: the parameters, as far as they are pruned.
    masks: True where kept, `None` where dense, for all that will be pruned.
    errors: by path, the squared error of the outputs of what is pruned, of each
      layer and expert, relative to the outputs. NaN where it is not yet pruned,
      or not known, as with statistics of norms alone.
    done: how many stages are done.
  """
  params: ArrayTree
  masks: ArrayTree
  errors: dict[str, np.ndarray]
  done: int | jax.Array

WEIGHTS = arguments.function(
    'a function of inputs', 'lambda x: x != 0')


@arguments.checked(
    state=arguments.state(OneShotState), weights=WEIGHTS,
    progress=arguments.function(
        'a function that wraps an iterable', 'tqdm.tqdm'))
def one_shot(fn: Callable[..., Any], params: ArrayTree, batches: Iterable[Any],
             patterns: Pattern | Mapping[str, Pattern | None],
             method: str | _kernels.Prune = 'sparsegpt',
             sparsity: float | Mapping[str, Any] | None = None, *,
             refit: bool = False,
             weights: Callable[..., jax.Array] | None = None,
             sequential: bool = True,
             progress: Progress | None = None,
             state: OneShotState | None = None,
             save: Callable[[OneShotState], Any] | None = None
             ) -> tuple[ArrayTree, ArrayTree]:
  """Prunes a trained model, with a little data and without training.

  Kernels are pruned in stages, in the order in which the function reads them.
  The kernels of a stage, such as query, key and value, do not depend on each
  other's outputs. Their inputs come from kernels that are pruned already. The
  function is cut between stages, and the data at a cut are kept for every
  batch, so nothing is computed twice: the total cost is two forward passes, the
  statistics, and the method. Layers of a `scan` are pruned one by one, and
  equal layers are compiled once. All kernels inside of one `cond`, `while`,
  `shard_map` or scan over data, such as a recurrent network, are one stage.

  Memory holds the statistics of one stage, `[in, in]` float32 for each kind of
  input (`[in]` for 'wanda'), and the data at one cut for all batches.

  Args:
    fn: `fn(params, *inputs)`, as it is for evaluation; any that JAX can trace.
    params: its trained parameters. They are not changed.
    batches: of inputs, such as `[x, y]` for `fn(params, x)`; a tuple is several
      arguments. Their sizes may differ. They and the parameters may lie on a
      mesh with Auto or Explicit axes; kernels and masks lie as kernels did, and
      statistics on every device.
    patterns: a pattern, which all kernels get on their own axes as
      `kernel_patterns` says; or rules, as for `prune`: a dict from regular
      expressions for paths to patterns that are written for the axes of
      parameters, or `None` for dense. Units and groups run along inputs. Of
      stacked layers, experts and groups of a convolution each has its own
      competition.
    method: 'magnitude', 'wanda', 'sparsegpt', 'admm', 'alps', or any function
      of `w [in, out]`, `h [in, in]`, pattern and sparsity that returns weights
      and mask, such as `functools.partial(calibration.sparsegpt, damping=.1)`.
    sparsity: the fraction pruned where a pattern has none of its own; or by
      path, for stacked kernels an array with a number for each layer, which
      comes before what a pattern has.
    refit: whether `refit` then solves for the kept weights, with `h` damped by
      0.01 of its mean diagonal.
    weights: a function of the inputs that gives a weight for each position,
      such as 0 for padding, of the shape of the leading axes of data.
    sequential: `False` prunes all kernels from statistics of the dense model,
      in one stage.
    progress: wraps the stages, such as `tqdm.tqdm`.
    state: a state from `save`, or a dict with its fields, as Orbax restores
      it: resumes from there, with the same other arguments.
    save: is called with the state after each stage.

  Returns:
    The pruned parameters, zero where pruned, and their masks, a tree of the
    same structure, `None` where dense. Train on with `lock()`.

  Raises:
    ValueError: if there are no batches, or they do not fit the function; if a
      pattern spans outputs; if inputs of a kernel with a rule are not seen, or
      are NaN; if `h` cannot be factored, with the damping to try; inside of
      `jax.jit`.

  Warns:
    UserWarning: if a pattern for all kernels leaves some dense, because it does
      not fit, they are used in another way, too, or their inputs are not seen.

  References:
    Frantar and Alistarh, `SparseGPT: Massive Language Models Can Be Accurately
    Pruned in One-Shot <https://arxiv.org/abs/2301.00774>`_, 2023; Sun et al.,
    `A Simple and Effective Pruning Approach for Large Language Models
    <https://arxiv.org/abs/2306.11695>`_, 2023. Released code takes modules
    apart by their names, a transformer block at a time; SparseGPT's option of
    true sequential order is what is done here.

  >>> import jaxsparse
  >>> keys = jax.random.split(jax.random.key(0), 3)
  >>> params = {'up': jax.random.normal(keys[0], (8, 16)),
  ...           'down': jax.random.normal(keys[1], (16, 4))}
  >>> mlp = lambda p, x: jax.nn.relu(x @ p['up']) @ p['down']
  >>> x = jax.random.normal(keys[2], (64, 8))
  >>> pruned, masks = one_shot(mlp, params, [x], jaxsparse.nm(2, 4))
  >>> print(jaxsparse.summary(pruned, masks))
  layer          shape  pattern  sparsity  kept   of
  -------------  -----  -------  --------  ----  ---
  down           16x4   2:4         50.0%    32   64
  up             8x16   2:4         50.0%    64  128
  -------------  -----  -------  --------  ----  ---
  sparse layers                     50.0%    96  192
  all                               50.0%    96  192
  """
  batches = batched(batches)
  check(params, batches)
  how = _kernels.method(method, refit)
  tasks = tasks_of(fn, params, batches[0], patterns, sparsity)
  data = Data(fn, params, batches, weights, how.kind or 'norm',
              leave=isinstance(patterns, Pattern))
  stages = (data.alone(tasks) if how.kind is None else
            data.in_turn(tasks) if sequential else data.at_once(tasks))
  seen = {leaf.path for stage in stages for leaf in stage.kernels}
  tasks = {path: task for path, task in tasks.items() if path in seen}
  if isinstance(state, Mapping):
    state = OneShotState(**state)
  state = _first(params, tasks) if state is None else state
  done = int(state.done)
  for number, stage in enumerate((progress or iter)(stages)):
    if number >= done:
      found = stage.look(state.params)
      for leaf in stage.kernels:
        state = _with(state, leaf, tasks[leaf.path], how, found.get(leaf))
      state = state._replace(done=number + 1)
      if save is not None:
        save(state)
    stage.go_on(state.params)
  return state.params, state.masks


def check(params: ArrayTree, batches: Any) -> None:
  """Raises for values that are traced."""
  if any(isinstance(x, jax.core.Tracer)
         for x in jax.tree.leaves((params, batches))):
    raise ValueError(
        'one_shot and owl look at values and compile what they need by '
        'themselves. Call them outside of jax.jit, vmap and grad.')


class Task(NamedTuple):
  """What is to be done to a kernel.

  Attributes:
    layout: how it is a stack of matrices, with their pattern.
    sparsity: the fraction pruned, or an array of the shape of the stack.
  """
  layout: Layout
  sparsity: Any

  def errors(self) -> np.ndarray:
    """For each matrix what is known before."""
    return np.full(self.layout.stack_sizes, np.nan, np.float32)


def tasks_of(fn: Callable[..., Any], params: ArrayTree, batch: Batch,
             patterns: Any, sparsity: Any) -> dict[str, Task]:
  """What is to be done, by path; arguments are those of `one_shot`."""
  if isinstance(patterns, Pattern):
    rules = graph.kernel_patterns(fn, params, *batch, pattern=patterns)
    kernels = rules.kernels
    for path, why in rules.dense.items():
      if kernels[path].contracted:  # Whatever else is dense is no kernel.
        warnings.warn(f'{path} stays dense: {why}', stacklevel=3)
  else:
    rules, kernels = patterns, graph.infer_kernels(fn, params, *batch)
  wanted = {path: pattern for path, _, pattern in trees.align(
      params, trees.match_rules(rules, params)) if pattern is not None}
  if isinstance(sparsity, Mapping):
    if unknown := [path for path in sparsity if path not in wanted]:
      raise ValueError(
          f'sparsity has {trees.few(unknown)}, which no pattern is for; those '
          f'that have one are {trees.few([*wanted])}.')
  if not wanted:
    raise ValueError(
        f'No parameter has a pattern, so nothing is pruned; rules are {rules}. '
        "Write e.g. {'.*kernel': jaxsparse.nm(2, 4)}.")
  tasks, left = {}, {}
  for path, pattern in wanted.items():
    try:
      layout = _layouts.layout(kernels[path], pattern)
    except ValueError as error:
      left[path] = error
      if not isinstance(patterns, Pattern):
        break
      continue
    own = pattern.sparsity
    if isinstance(sparsity, Mapping):
      own = sparsity.get(path, own)
    elif own is None:
      own = sparsity
    tasks[path] = Task(layout, _each(path, own, layout))
  # Rules are done or are an error; one pattern is for all that it fits.
  if left and (not tasks or not isinstance(patterns, Pattern)):
    path, error = [*left.items()][-1]
    raise ValueError(f'{path}: {error}') from error
  for path, error in left.items():
    warnings.warn(f'{path} stays dense: {error}', stacklevel=3)
  return tasks


def _each(path: str, sparsity: Any, layout: Layout) -> Any:
  """A fraction or nothing as it is, else an array with one for each matrix."""
  if sparsity is None or isinstance(sparsity, (int, float)):
    return sparsity
  shape, stack = np.shape(sparsity), layout.stack_sizes
  if len(shape) > len(stack) or not all(
      a in (1, b) for a, b in zip(shape[::-1], stack[::-1])):
    raise ValueError(
        f'{path}: sparsity has the shape {shape}, expected a number for each '
        f'of the stacked matrices, {stack}, or one number.')
  return jnp.broadcast_to(jnp.asarray(sparsity, jnp.float32), stack)


def _first(params: ArrayTree, tasks: Mapping[str, Task]) -> OneShotState:
  masks = trees.map_with_path(
      lambda path, w: jnp.ones_like(w, bool) if path in tasks else None,
      params)
  errors = {path: task.errors() for path, task in tasks.items()}
  return OneShotState(params, masks, errors, 0)


def _with(state: OneShotState, leaf: Leaf, task: Task, how: _kernels.Method,
          statistic: Statistic | None) -> OneShotState:
  """The state with one more kernel, or layer of it, pruned."""
  axes = [axis for axis, _ in leaf.index]
  layout = task.layout.without(axes)
  # Where the layer is among the matrices.
  place = tuple((task.layout.stack.index(axis), k) for axis, k in leaf.index)
  name = leaf.path + ''.join(f'[{k}]' for _, k in leaf.index)
  sparsity = task.sparsity
  if isinstance(sparsity, jax.Array):
    sparsity = slices.take(sparsity, place)

  def set_(tree, new):
    return trees.map_with_path(
        lambda path, x: slices.put(x, new, leaf.index) if path == leaf.path
        else x, tree)
  kernel, = (w for path, w, _ in trees.align(state.params, state.masks)
             if path == leaf.path)
  pruned = _kernels.prune(name, slices.take(kernel, leaf.index), statistic,
                          layout, how, sparsity)
  errors = np.array(state.errors[leaf.path])
  errors[slices.at(place, errors.ndim)] = pruned.error
  return state._replace(params=set_(state.params, pruned.kernel),
                        masks=set_(state.masks, pruned.mask),
                        errors={**state.errors, leaf.path: errors})
