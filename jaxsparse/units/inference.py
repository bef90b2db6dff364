"""Ties: which axes of which parameters index the same hidden units.

The output of one layer is the input of the next, so the columns of one kernel,
a bias and the rows of another kernel index the same units: they can be put in
another order, or be removed, only together. `infer_ties` finds such sets in any
JAX function; `permute` and all that removes units stand on them.
"""

import collections
import dataclasses
import math
from typing import Any, Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import numerics
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph import tracing
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.removal import slim
from jaxsparse.units.reordering import reorder
from jaxsparse.units.ties import as_ties
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import indices
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


def infer_ties(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
               check: bool = True) -> Ties:
  """Finds which axes of parameters index the same hidden units of a function.

  For every tie and every permutation `p` of its units

    fn(params, *inputs) == fn(permuted params, *inputs),

  up to rounding. Axes are followed through the function's jaxpr, so any
  function will do: Flax, Haiku or your own. What cannot be followed is not
  guessed, but fixed, with the primitive's name; so are units that are an axis
  of inputs or of outputs, and those that a constant tells apart. Running
  averages belong to ties if they are among the parameters and the function
  uses them, so read it as it is for evaluation.

  Units may be permuted under softmax, norms and sums over them, but not
  removed, because what is left would change: then `Tie.kept` says why not. A
  number such as 0.125 may come from 8 heads or from their 64 dimensions: which
  it is shows when one is taken away, if `check` may do so.
  `Member.role` tells what makes units and what reads them, `Tie.read` what
  else does, such as a sum over them.

  Args:
    fn: any function that JAX can trace.
    params: its first argument: weights, and running averages.
    *inputs: the other arguments; a small batch will do.
    check: runs `check_ties` on what was found; it is left out by itself if
      parameters or inputs are only shapes.

  Returns:
    The `Ties`.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021, which needs a tracer of PyTorch modules for it.

  >>> params = {'fc1': {'bias': np.ones(16), 'kernel': np.ones((8, 16))},
  ...           'fc2': {'kernel': np.ones((16, 4))}}
  >>> def mlp(params, x):
  ...   h = jax.nn.relu(x @ params['fc1']['kernel'] + params['fc1']['bias'])
  ...   return h @ params['fc2']['kernel']
  >>> print(infer_ties(mlp, params, np.ones(8)))
  units  along  permute                        remove  members
  -----  -----  -----------------------------  ------  ----------------
  16     -      yes                            yes     fc1/bias[*]
                                                       fc1/kernel[:, *]
                                                       fc2/kernel[*]
  8      -      no: an input of the function   no      fc1/kernel[*]
  4      -      no: an output of the function  no      fc2/kernel[:, *]
  """
  read = tracing.read(fn, params, *inputs)
  ties = Ties(tuple(_ties(read, _others(read, fn, params, *inputs))),
              read.shapes)
  concrete = all(isinstance(x, (jax.Array, np.ndarray, np.generic, float, int))
                 and not isinstance(x, jax.core.Tracer)
                 for x in jax.tree.leaves((params, inputs)))
  if check and concrete:
    check_ties(fn, params, ties, *inputs)
    ties = dataclasses.replace(
        ties, ties=_cleared(fn, params, ties.ties, *inputs))
  return ties


def _ties(read: tracing.Reading, others: Mapping[tuple, str | None]
          ) -> Iterator[Tie]:
  companies = read.relations.companies()
  places, cut = collections.defaultdict(list), []
  for path, array in read.params.items():
    there = [p for p in read.relations.places(array) if p.leaf.size > 1]
    for place in there:
      places[place.leaf].append((path, place))
    # An axis may have been sliced into single indices.
    cut += [Tie(axis.size, (Member(path, k, role=_role(read, path, k)),),
                fixed='slice')
            for k, axis in enumerate(array)
            if axis and k not in {place.axis for place in there}]
  for leaf in sorted(places, key=lambda leaf: leaf.fixed is not None):
    # What may not be permuted need not be told apart.
    along = [] if leaf.fixed else _common(companies[leaf])
    members = tuple(
        _member(path, place, along, read.shapes[path])._replace(
            role=_role(read, path, place.axis)) for path, place in places[leaf])
    why = (others.get(_key(path, place), 'what could not be followed')
           for path, place in places[leaf])
    yield Tie(leaf.size, members, tuple(axis.size for axis in along),
              leaf.fixed, leaf.kept, read=None if leaf.fixed or leaf.kept
              else next(filter(None, why), None))
  yield from cut


def _role(read: tracing.Reading, path: str, axis: int) -> str:
  """What a parameter's products with data do along an axis."""
  products = read.products[path]
  if any(axis in product.contracted for product in products):
    return 'reads'
  made = any(axis in product.outputs for product in products)
  return 'makes' if made else 'beside'


def _key(path: str, place: axes_lib.Place) -> tuple:
  return (path, place.axis, place.starts[place.axis], place.stride,
          place.leaf.size)


def _others(read: tracing.Reading, fn: Callable[..., Any], params: ArrayTree,
            *inputs: Any) -> dict[tuple, str | None]:
  """Why units matter although all that is zero that reads them, by place.

  The function is read again, with parameters of which a unit has zeros only
  where it is read: something is added to them that is not zero elsewhere. What
  then keeps units is not a member.
  """
  leaves, structure = jax.tree.flatten(params)
  added = [jax.ShapeDtypeStruct(
      [n if _role(read, path, axis) == 'reads' else 1
       for axis, n in enumerate(shape)], jnp.result_type(w))
           for (path, shape), w in zip(read.shapes.items(), leaves)]

  def nonzero(both, *inputs):
    moved = [numerics.joined(w, more) for w, more in zip(*both)]
    return fn(jax.tree.unflatten(structure, moved), *inputs)
  again = tracing.read(nonzero, (leaves, added), *inputs)
  found: dict[tuple, str | None] = {}
  for path, array in zip(read.params, again.params.values()):
    for place in again.relations.places(array):
      key = _key(path, place)
      found[key] = found.get(key) or place.leaf.kept
  return found


def _common(companies: list[list[axes_lib.Axis]]) -> list[axes_lib.Axis]:
  """The leaves that each company has once, in the order of the first."""
  return [axis for axis in companies[0] if axis.size > 1
          and axis.kind == 'leaf'
          and all(company.count(axis) == 1 for company in companies)]


def _member(path: str, place: axes_lib.Place, along: list[axes_lib.Axis],
            shape: tuple[int, ...]) -> Member:
  distances = []
  for dimension in along:
    (axis, stride), = [
        (axis, stride) for axis, row in enumerate(place.coordinates)
        for other, stride in row if other is dimension]
    distances.append((axis, stride))
  steps = [tuple((axis.size, stride) for axis, stride in row
                 if axis not in along and axis.size > 1)
           for row in place.coordinates]
  touched = {axis for axis, _ in distances}
  elsewhere = tuple(
      Elsewhere(axis, start, steps[axis])
      for axis, start in enumerate(place.starts)
      if axis != place.axis and (axis in touched or math.prod(
          n for n, _ in steps[axis]) != shape[axis]))
  member = Member(path, place.axis, place.starts[place.axis], place.stride,
                  steps[place.axis], tuple(distances), elsewhere)
  count = indices(place.leaf.size, [axis.size for axis in along], member)
  return member._replace(part=bool(count != shape[place.axis]))


def check_ties(fn: Callable[..., Any], params: ArrayTree,
               ties: Ties | Sequence[Tie], *inputs: Any, seed: int = 0
               ) -> float:
  """Permutes all free ties at random and compares the function's outputs.

  The parameters are moved a little first, so that no two units are alike, as
  those of fresh biases and norms are. Fixed ties are not checked.

  Args:
    fn: a function of parameters and inputs.
    params: its parameters.
    ties: ties to be checked.
    *inputs: its other arguments.
    seed: of the permutations.

  Returns:
    The largest difference, relative to the largest output.

  Raises:
    ValueError: if outputs differ by more than the square root of the precision
      of the parameters' type, naming the tie; if a tie does not match the tree;
      if outputs are not finite, or all zero, so that nothing could differ.

  >>> params = {'in': np.eye(4), 'out': np.arange(4.)}
  >>> f = lambda params, x: x @ params['in'] @ params['out']
  >>> tie = Tie(4, (Member('in', 1),))
  >>> check_ties(f, params, [tie], np.ones(4))
  Traceback (most recent call last):
    ...
  ValueError: Tie 'in[:, *]' changes the function: ...
  """
  free = as_ties(ties).free
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda w: _nearby(w, rng), params)
  orders = [(tie, rng.permuted(np.broadcast_to(
      np.arange(tie.size), tie.shape), axis=-1)) for tie in free]
  shapes = {path: np.shape(w) for path, w in trees.align(params)}
  run = jax.jit(fn)
  before = _floats(run(params, *inputs))
  if not all(np.isfinite(x).all() for x in before):
    raise ValueError(
        'Ties cannot be checked: outputs of the function are not finite. Give '
        'other inputs, or the function as it is for evaluation.')
  if free and not any(x.any() for x in before):
    raise ValueError(
        'Ties cannot be checked: outputs of the function are all zero. Give '
        'inputs that are not.')
  tolerance = max([float(jnp.finfo(w.dtype).eps)**.5
                   for w in map(jnp.asarray, jax.tree.leaves(params))
                   if jnp.issubdtype(w.dtype, jnp.floating)], default=0.)

  def difference(orders):
    after = _floats(run(reorder(params, orders, shapes=shapes), *inputs))
    return max([float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
                for a, b in zip(before, after) if a.size], default=0.)
  worst = difference(orders)
  if worst <= tolerance:
    return worst
  for order in orders:
    if not (worst := difference([order])) <= tolerance:
      raise ValueError(
          f'Tie {order[0].name!r} changes the function: permuting its units '
          f'moves outputs by {worst:.2g} of the largest, not by rounding '
          f'(<= {tolerance:.2g}). Something that indexes these units is not '
          f'among {list(map(str, order[0].members))}.')
  raise ValueError(
      f'All ties together move outputs by {worst:.2g} of the largest, while '
      'each alone does not: ties overlap. Write every part of an axis into one '
      'tie only.')


def _cleared(fn: Callable[..., Any], params: ArrayTree, ties: Sequence[Tie],
             *inputs: Any) -> tuple[Tie, ...]:
  """Ties that a number keeps which may come from another one, tried out.

  One unit that nothing reads is removed, from all ties that are alike at once.
  """
  alike = collections.defaultdict(list)
  for tie in ties:
    if tie.free and tracing.OR in (tie.kept or ''):
      alike[tie.kept, tie.shape].append(tie)
  free = {tie for group in alike.values()
          if _removable(fn, params, group, *inputs) for tie in group}
  return tuple(dataclasses.replace(tie, kept=None) if tie in free else tie
               for tie in ties)


def _removable(fn: Callable[..., Any], params: ArrayTree, ties: Sequence[Tie],
               *inputs: Any) -> bool:
  """Whether a function is the same without a unit that nothing reads."""
  rng = np.random.default_rng(0)
  # Far from where all logits are alike, so that their scale matters.
  params = jax.tree.map(lambda w: _nearby(w, rng, by=3.), params)
  readers = [(tie, m) for tie in ties for m in tie.members if m.role == 'reads']
  paths = {member.path for _, member in readers}
  arrays = {path: np.array(w) for path, w in trees.align(params)
            if path in paths}
  for tie, member in readers:
    there = ties_lib.view(tie, member, arrays[member.path])
    there[(slice(None),) * len(tie.along) + (0,)] = 0
  unread = trees.map_with_path(lambda path, w: arrays.get(path, w), params)
  keep = {tie.name: np.broadcast_to(np.arange(tie.size) > 0, tie.shape)
          for tie in ties}
  try:
    smaller = slim(
        unread, [dataclasses.replace(tie, kept=None) for tie in ties], keep)
    before, after = (_floats(jax.jit(fn)(p, *inputs))
                     for p in (unread, smaller))
  # What is left is not rectangular, or whatever a function says of sizes that
  # it was not made for.
  except Exception:
    return False
  largest = max([float(jnp.finfo(w.dtype).eps) for w in map(
      jnp.asarray, jax.tree.leaves(params))
                 if jnp.issubdtype(w.dtype, jnp.floating)], default=0.)
  return largest < 1e-5 and all(
      a.shape == b.shape and np.isfinite(a).all()
      and np.abs(a - b).max(initial=0.) <= 100 * largest * np.abs(a).max(
          initial=0.) for a, b in zip(before, after))


def _nearby(w: Any, rng: np.random.Generator, by: float = 1.) -> Any:
  """A parameter at a point where no two units are alike."""
  if not jnp.issubdtype(jnp.asarray(w).dtype, jnp.floating):
    return w
  # Positive stays positive, for variances.
  scale = by * rng.uniform(.5, 1.5, np.shape(w)).astype(np.float32)
  more = rng.uniform(0., .1, np.shape(w)).astype(np.float32)
  w = jnp.asarray(w)
  return w * scale.astype(w.dtype) + more.astype(w.dtype)


def _floats(outputs: Any) -> list[np.ndarray]:
  return [np.asarray(x, np.float64) for x in jax.tree.leaves(outputs)
          if jnp.issubdtype(jnp.asarray(x).dtype, jnp.number)]
