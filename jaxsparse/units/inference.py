"""`infer_ties`: finds the axes of parameters that index the same hidden units.

The output of one layer is the input of the next, so the columns of one kernel,
a bias and the rows of another kernel index the same units. These can be
permuted, or removed, only together. `infer_ties` finds such sets, called ties,
in any JAX function. `permute` and the removal of units use them.
"""

import collections
import dataclasses
import math
from typing import Any, Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import numerics
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import axes as axes_lib
from jaxsparse.graph import tracing
from jaxsparse.units import _trials
from jaxsparse.units import checking
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import indices
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties


@arguments.checked()
def infer_ties(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
               check: bool = True) -> Ties:
  """Finds which axes of parameters index the same hidden units of a function.

  For every tie and every permutation `p` of its units

    fn(params, *inputs) == fn(permuted params, *inputs),

  up to rounding. The axes are traced through the function's jaxpr, so any
  function works: Flax, Haiku or your own. If an axis cannot be traced further,
  its units are fixed, and `Tie.fixed` names the primitive. Units are also fixed
  if they are an axis of inputs or of outputs, or if a constant differs between
  them. Running averages belong to ties if they are among the parameters and the
  function uses them, so pass the function in evaluation mode.

  Units under a softmax, a norm or a sum over them may be permuted, but not
  removed, because their removal changes the other units; `Tie.kept` gives the
  reason. A number such as 0.125 may come from 8 heads or from their 64
  dimensions, and a sum of ones may count units. To find out, `infer_ties`
  traces the function with one unit less, and with half of them. `Tie.untried`
  says if the function does not accept smaller arrays, for example because
  modules of Linen, Haiku and Keras store their sizes. `Member.role` says which
  members make units and which read them. `Tie.read` names other operations that
  read units, such as a sum over them.

  Args:
    fn: any function that JAX can trace.
    params: the first argument: weights, and running averages.
    *inputs: the other arguments; a small batch is enough. Sequences should have
      several tokens, since the scale of the logits of one does not show.
    check: whether to run `check_ties` on the result. The check is skipped if
      parameters or inputs are only shapes. Without it, units are kept if any
      number in the function changes with fewer units, whether or not outputs
      change.

  Returns:
    The `Ties` of the function.

  References:
    Pool and Yu, `Channel Permutations for N:M Sparsity
    <https://proceedings.neurips.cc/paper/2021/hash/6e8404c3b93a9527c8db241a1846599a-Abstract.html>`_,
    2021. The paper traces PyTorch modules instead.

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
  traced = tracing.trace(fn, params, *inputs)
  read = tracing.read_jaxpr(*traced)
  found = _with_hidden_averages(
      dict(_ties(read, _others(read, fn, params, *inputs))), read.shapes)
  concrete = all(isinstance(x, (jax.Array, np.ndarray, np.generic, float, int))
                 and not isinstance(x, jax.core.Tracer)
                 for x in jax.tree.leaves((params, inputs)))
  run = jax.jit(fn)
  if check and concrete:
    checking.check(run, params, Ties(tuple(found), read.shapes), *inputs)
  trial = _trials.Trial(fn, params, inputs, Ties(tuple(found), read.shapes),
                        traced, read, run if check and concrete else None)
  return Ties(_trials.tried(found, trial), read.shapes)


def _ties(read: tracing.Reading, others: Mapping[tuple, str | None]
          ) -> Iterator[tuple[Tie, str | None]]:
  """Ties, and for each a number that may come from how many units it has."""
  companies = read.relations.companies()
  places, there = collections.defaultdict(list), set()
  for path, place in read.places():
    places[place.leaf].append((path, place))
    there.add((path, place.axis))
  # An axis may have been sliced into single indices.
  cut = [Tie(axis.size, (Member(path, k, role=_role(read, path, k)),),
             fixed='slice')
         for path, array in read.params.items()
         for k, axis in enumerate(array) if axis and (path, k) not in there]
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
              else next(filter(None, why), None)), leaf.number
  yield from ((tie, None) for tie in cut)


def _with_hidden_averages(ties: dict[Tie, str | None],
                          shapes: Mapping[str, tuple[int, ...]]
                          ) -> dict[Tie, str | None]:
  """Ties with Haiku's `hidden`, which an evaluation does not use.

  An `average` is its `hidden` without a bias towards zero, so the two move
  together.
  """
  twins = {path: f'{parent}/hidden' for path in shapes
           for parent, _, name in [path.rpartition('/')] if name == 'average'
           and shapes.get(f'{parent}/hidden') == shapes[path]}
  hidden = {*twins.values()}
  # Those that the function uses have ties of their own.
  unused = {m.path for tie in ties for m in tie.members[:1]
            if m.path in hidden and len(tie.members) == 1 and tie.free}

  def joined(tie):
    more = [m._replace(path=twins[m.path], role='beside') for m in tie.members
            if twins.get(m.path) in unused]
    return dataclasses.replace(
        tie, members=(*tie.members, *more)) if more else tie
  return {joined(tie): number for tie, number in ties.items()
          if {m.path for m in tie.members} - unused}


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
