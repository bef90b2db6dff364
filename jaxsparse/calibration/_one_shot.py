"""`one_shot`: pruning of whole models, kernel by kernel."""

from typing import Any, Callable, Iterable, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import graph
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils import warning
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.calibration import _common
from jaxsparse.calibration import _kernels
from jaxsparse.calibration import _layouts
from jaxsparse.calibration._layouts import Layout
from jaxsparse.calibration._stages import Batch
from jaxsparse.calibration._stages import batched
from jaxsparse.calibration._stages import Data
from jaxsparse.calibration._stages import Progress
from jaxsparse.calibration._stages import restored
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.graph import slices
from jaxsparse.graph.segments import Leaf
from jaxsparse.patterns import Pattern


class OneShotState(NamedTuple):
  """The progress of `one_shot`: a tree of arrays that a checkpoint can hold.

  Attributes:
    params: the parameters, with the kernels of finished stages pruned.
    masks: True where kept, `None` where dense, for all kernels to be pruned.
    errors: maps paths to the squared errors of outputs relative to the squares
      of outputs, for each layer and expert. NaN for kernels that are not pruned
      yet, and for methods that use only norms of inputs.
    done: the number of finished stages.
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
    fn: the function `fn(params, *inputs)` of the model in evaluation mode; any
      function that JAX can trace. Batch norms, however, should use the
      statistics of the batch: running averages are those of the dense weights.
    params: the trained parameters. They are not changed.
    batches: an iterable of batches of inputs, such as `[x, y]` for
      `fn(params, x)`; a tuple, but no NamedTuple, holds several arguments. The
      sizes of batches may differ. Batches and parameters may be on a mesh with
      Auto or Explicit axes. Kernels and masks keep the sharding of the kernels;
      statistics are replicated.
    patterns: one pattern for all kernels, placed on the axes of each kernel by
      `kernel_patterns`. Or a mapping as for `prune`, from regular expressions
      for paths to patterns written for the axes of parameters, or `None` for
      dense. Units and groups must run along inputs. Weights compete only within
      their layer, expert or group of a convolution.
    method: 'magnitude', 'wanda', 'sparsegpt', 'admm', 'alps', or any function
      of `w [in, out]`, `h [in, in]`, pattern and sparsity that returns weights
      and mask, such as `functools.partial(calibration.sparsegpt, damping=.1)`.
    sparsity: the fraction pruned, for patterns without a sparsity of their own.
      Or a mapping from paths to fractions, or for stacked kernels to arrays
      with one fraction for each layer; the mapping overrides the sparsity of
      patterns.
    refit: whether `refit` solves for the kept weights afterwards, with `h`
      damped by 0.01 of its mean diagonal.
    weights: a function of the inputs that returns a weight for each position,
      such as 0 for padding, in the shape of the leading axes of the data.
    sequential: whether to prune in stages. `False` prunes all kernels in one
      stage, from statistics of the dense model.
    progress: a function that wraps the iterable of stages, such as `tqdm.tqdm`.
    state: a state from `save`, or a dict with its fields as restored by Orbax,
      to resume from. The other arguments must be the same.
    save: a function that is called with the state after each stage.

  Returns:
    The pruned parameters, zero where pruned, and their masks, a tree of the
    same structure, `None` where dense. To train further, use the rule `lock()`.

  Raises:
    ValueError: if there are no batches, or they do not fit the function; if a
      pattern spans outputs; if the inputs of a kernel in `patterns` cannot be
      found, or are NaN; if `h` cannot be factored (the message suggests a
      damping); or inside of `jax.jit`.

  Warns:
    UserWarning: if one pattern for all kernels leaves a kernel dense, because
      the pattern does not fit, the kernel has other uses than products, or its
      inputs cannot be found; or if the outputs of pruned kernels are normalised
      by running averages.

  References:
    Frantar and Alistarh, `SparseGPT: Massive Language Models Can Be Accurately
    Pruned in One-Shot <https://arxiv.org/abs/2301.00774>`_, 2023; Sun et al.,
    `A Simple and Effective Pruning Approach for Large Language Models
    <https://arxiv.org/abs/2306.11695>`_, 2023. The released code processes one
    transformer block at a time, and finds modules by their names. The order
    here is SparseGPT's option of a true sequential order.

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
              leave='They stay dense.' if isinstance(patterns, Pattern) else '')
  stages = (data.alone(tasks) if how.kind is None else
            data.in_turn(tasks) if sequential else data.at_once(tasks))
  seen = {leaf.path for stage in stages for leaf in stage.kernels}
  tasks = {path: task for path, task in tasks.items() if path in seen}
  if isinstance(state, Mapping):
    state = OneShotState(**state)
  state = _first(params, tasks) if state is None else state._replace(
      params=restored(params, state.params, 'params'),
      masks=restored(params, state.masks, 'masks'))
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
  """Raises for traced values."""
  if any(isinstance(x, jax.core.Tracer)
         for x in jax.tree.leaves((params, batches))):
    raise ValueError(
        'one_shot and owl need the values of arrays, got tracers. Call them '
        'outside of jax.jit, vmap and grad; they compile their own programs.')


class Task(NamedTuple):
  """The layout and the sparsity with which a kernel is to be pruned.

  Attributes:
    layout: the layout of the kernel as a stack of matrices, with their pattern.
    sparsity: the fraction pruned, or an array of the shape of the stack.
  """
  layout: Layout
  sparsity: Any

  def errors(self) -> np.ndarray:
    """The initial errors, NaN for each matrix."""
    return np.full(self.layout.stack_sizes, np.nan, np.float32)


def tasks_of(fn: Callable[..., Any], params: ArrayTree, batch: Batch,
             patterns: Any, sparsity: Any) -> dict[str, Task]:
  """The tasks by path of the kernels; the arguments are those of `one_shot`."""
  if isinstance(patterns, Pattern):
    rules = graph.kernel_patterns(fn, params, *batch, pattern=patterns)
    kernels = rules.kernels
    for path, why in rules.dense.items():
      if kernels[path].contracted:  # Other dense leaves are not kernels.
        warning.warn(f'{path} stays dense: {why}')
  else:
    rules, kernels = patterns, graph.infer_kernels(fn, params, *batch)
  wanted = {path: pattern for path, _, pattern in trees.align(
      params, trees.match_rules(rules, params)) if pattern is not None}
  if isinstance(sparsity, Mapping):
    if unknown := [path for path in sparsity if path not in wanted]:
      raise ValueError(
          f'sparsity must map paths that have a pattern, such as '
          f'{trees.few([*wanted])}, got {trees.few(unknown)}. Write e.g. '
          f'sparsity={{{[*wanted][0]!r}: 0.5}}.')
  if not wanted:
    raise ValueError(
        'patterns must give a pattern to at least one parameter, got '
        f"{rules}. Write e.g. {{'.*kernel': jaxsparse.nm(2, 4)}}.")
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
  # With a mapping, a pattern that does not fit is an error; one pattern for all
  # kernels applies to the kernels that it fits.
  if left and (not tasks or not isinstance(patterns, Pattern)):
    path, error = [*left.items()][-1]
    raise ValueError(f'{trees.named(path)}: {error}') from error
  for path, error in left.items():
    warning.warn(f'{path} stays dense: {error}')
  return tasks


def _each(path: str, sparsity: Any, layout: Layout) -> Any:
  """A fraction or `None` unchanged, or an array with one for each matrix."""
  if sparsity is None or isinstance(sparsity, (int, float)):
    return sparsity
  shape, stack = np.shape(sparsity), layout.stack_sizes
  if len(shape) > len(stack) or not all(
      a in (1, b) for a, b in zip(shape[::-1], stack[::-1])):
    raise ValueError(
        f'{trees.named(path)}: '
        'sparsity must be one number, or an array of the shape '
        f'{stack} of the stacked matrices, got the shape {shape}. Write e.g. '
        'sparsity=0.5.')
  _common.check_fraction(sparsity)
  return jnp.broadcast_to(jnp.asarray(sparsity, jnp.float32), stack)


def _first(params: ArrayTree, tasks: Mapping[str, Task]) -> OneShotState:
  masks = trees.map_with_path(
      lambda path, w: jnp.ones_like(w, bool) if path in tasks else None,
      params)
  errors = {path: task.errors() for path, task in tasks.items()}
  return OneShotState(params, masks, errors, 0)


def _with(state: OneShotState, leaf: Leaf, task: Task, how: _kernels.Method,
          statistic: Statistic | None) -> OneShotState:
  """The state with one more kernel, or layer of a kernel, pruned."""
  axes = [axis for axis, _ in leaf.index]
  layout = task.layout.without(axes)
  # The index of the layer in the stack of matrices.
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
