"""`fold_constants`: moves constant outputs of pruned units into biases.

A unit whose weights are all zero may still have a nonzero output, such as
`relu(bias)`, which is the same for all inputs. After this constant is added to
the biases of the units that read it, the unit itself is not read any more:

  y = W h + b,  h[u] = c  for all inputs:  b <- b + W[:, u] c,  W[:, u] <- 0.

`graph.operands` finds the products that read units, and the biases.
"""

import math
from typing import Any, Callable, cast, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse._utils import arguments
from jaxsparse._utils import tables
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import operands
from jaxsparse.graph.operands import Reader
from jaxsparse.graph.operands import Readers
from jaxsparse.graph.operands import Seen
from jaxsparse.graph.operands import Vector
from jaxsparse.units import checking
from jaxsparse.units import ties as ties_lib
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

# Draws of other parameters, so that a unit that a ReLU happens to cut off in
# one draw is not taken for a constant.
_DRAWS = 16


class Folded(NamedTuple):
  """The result of `fold_constants`; `print` shows it as a table.

  Attributes:
    params: the new parameters.
    folded: maps names of ties to the indices of folded units, which are not
      read any more.
    left: maps names of ties and reasons to the indices of units that have a
      constant output but cannot be folded.
  """
  params: ArrayTree
  folded: dict[str, np.ndarray]
  left: dict[str, dict[str, np.ndarray]]

  def __str__(self) -> str:
    rows = [(name, len(at), 'folded') for name, at in self.folded.items()]
    rows += [(name, len(at), f'left: {why}')
             for name, reasons in self.left.items()
             for why, at in reasons.items()]
    return tables.table([('tie', 'units', 'constant')],
                        [(name, str(n), what) for name, n, what in rows],
                        right=[1])


@arguments.checked()
def fold_constants(fn: Callable[..., Any], params: ArrayTree,
                   ties: Ties | Sequence[Tie], *inputs: Any) -> Folded:
  """Moves constant outputs of units without weights into biases.

  Such a unit has zeros in all members with the role 'makes', or a zero factor
  after them, such as the scale of a batch norm. But its bias, norm or running
  average is not zero. If the unit has the same value `c` wherever it is read,
  for these inputs and for others like them, the bias `b` of the reading product
  becomes

    b + sum over u of W[:, u] c[u],

  and the unit's slices of the reading kernels are set to zero. `b` is the
  vector that is added to this product alone (or subtracted, like the mean of a
  batch norm). After that `alive` counts the unit as dead.

  A unit is not folded if its readers see different values. A convolution with
  padding sees 0 instead of `c` at the borders, so its units are not folded.
  Units along `Tie.along`, units in loops, and units whose reader or `b` is used
  twice are not folded either.

  Args:
    fn: the function from which ties were inferred, in evaluation mode.
    params: the pruned parameters, with running averages.
    ties: the ties, from `infer_ties`, which finds roles.
    *inputs: the other arguments of `fn`; a small batch is enough. Inputs like
      them are floats near them, whole numbers between the smallest and the
      largest (or next to the only one), and any bools.

  Returns:
    A `Folded`. `fn(folded.params, *inputs)` equals `fn(params, *inputs)` up to
    rounding. Indices are those of units, in the flattened `tie.shape`.

  Raises:
    ValueError: if ties do not fit the parameters.

  >>> from jaxsparse import infer_ties
  >>> params = {'b1': np.ones(3), 'b2': np.zeros(1), 'w2': np.ones((3, 1)),
  ...           'w1': np.array([[1., 0., 2.]])}
  >>> def mlp(params, x):
  ...   h = jax.nn.relu(x @ params['w1'] + params['b1'])
  ...   return h @ params['w2'] + params['b2']
  >>> ties = infer_ties(mlp, params, np.ones(1))
  >>> folded = fold_constants(mlp, params, ties, np.ones(1))
  >>> print(folded)
  tie    units  constant
  -----  -----  --------
  b1[*]      1  folded
  >>> folded.params['b2'], folded.params['w2'][:, 0]
  (array([1.]), array([1., 0., 1.]))
  """
  ties = [tie for tie in ties_lib.as_ties(ties) if not (tie.fixed or tie.kept)]
  arrays = {path: np.array(w) for path, w in trees.align(params)}
  _check(ties, arrays)
  readers, look = operands.find_readers(
      fn, params, *inputs,
      paths={m.path for tie in ties for m in _members(tie, 'reads')})
  rng = np.random.default_rng(0)
  leaves, structure = jax.tree.flatten(inputs)
  like = [inputs, *(jax.tree.unflatten(structure, some) for some in zip(
      *(checking.others(x, rng) for x in leaves)))]
  discrete = any(not jnp.issubdtype(jnp.result_type(x), jnp.inexact)
                 for x in leaves)
  makers = {m.path for tie in ties for m in _members(tie, 'makes')}
  folded = {}
  while True:  # A unit that reads only constants may be constant now.
    now = jax.tree.unflatten(jax.tree.structure(params), list(arrays.values()))
    seen = [look(now, *given) for given in like]
    # A unit that does not depend on the kernels that make it is constant, too.
    moved = [look(other, *given) for given in (
        (like[1:] or like) * _DRAWS)[:_DRAWS // 2]
             if any(_scaled_away(tie, arrays) is not None for tie in ties)
             for other in _both_signs(now, makers, rng)]
    # Nor is one that tokens make, though it is cut off for these.
    drawn = [[look(other, *given) for given in like[1:]] for other in (
        jax.tree.map(lambda w: _redrawn(w, rng), now)
        for _ in range(_DRAWS // 2 if discrete else 0))]
    reasons = {tie: _reasons(tie, arrays, readers, seen, moved, drawn)
               for tie in ties}
    fit = {tie: np.array([u for u, why in found.items() if not why], int)
           for tie, found in reasons.items()}
    if not any(map(len, fit.values())):
      break
    for tie, at in fit.items():
      for member in _members(tie, 'reads') if len(at) else ():
        # Else there would be a reason.
        _fold(tie, member, at, arrays, cast(Reader, readers[member.path]),
              seen[0][member.path])
      folded[tie.name] = np.union1d(folded.get(tie.name, at), at)
  return Folded(
      trees.map_with_path(lambda path, w: _like(arrays[path], w), params),
      {name: at for name, at in folded.items() if len(at)},
      {tie.name: {why: np.array([u for u in found if found[u] == why])
                  for why in dict.fromkeys(found.values())}
       for tie, found in reasons.items() if found})


def _check(ties: Sequence[Tie], arrays: Mapping[str, np.ndarray]) -> None:
  for tie in ties:
    for member in tie.members:
      if member.path not in arrays:
        raise ValueError(
            f'The parameters must have {member.path!r}, which is in the ties, '
            f'got {trees.few([*arrays])}. Give the parameters from which ties '
            'were inferred.')
      ties_lib.view(tie, member, arrays[member.path])


def _members(tie: Tie, role: str) -> list[Member]:
  return [member for member in tie.members if member.role == role]


def _random(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Another kernel of about the scale of this one."""
  if not jnp.issubdtype(w.dtype, jnp.floating):
    return w
  x = w.astype(np.float32)
  scale = np.sqrt(np.square(x).mean()) if x.size else 0.
  return (rng.normal(size=w.shape) * (scale or 1.)).astype(w.dtype)


def _both_signs(params: ArrayTree, makers: set[str],
                rng: np.random.Generator) -> list[ArrayTree]:
  """Parameters with other kernels, and with these times -1.

  A ReLU without a bias cuts a unit off in one of them at most.
  """
  drawn = {path: _random(w, rng) for path, w in trees.align(params)
           if path in makers and jnp.issubdtype(w.dtype, jnp.floating)}
  return [trees.map_with_path(
      lambda path, w, sign=sign: sign * drawn[path] if path in drawn else w,
      params) for sign in (1, -1)]


def _redrawn(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """As `_random`, but zero where this one is, and of one sign if it is."""
  other = _random(w, rng)
  return np.where(w == 0, w, np.abs(other) if (w >= 0).all() else other)


def _like(new: np.ndarray, old: Any) -> Any:
  if np.array_equal(new, np.asarray(old), equal_nan=True):
    return old
  return new if isinstance(old, np.ndarray) else jax.device_put(
      new, old.sharding)


def _reasons(tie: Tie, arrays: Mapping[str, np.ndarray], readers: Readers,
             seen: Sequence[Mapping[str, Seen]],
             moved: Sequence[Mapping[str, Seen]],
             drawn: Sequence[Sequence[Mapping[str, Seen]]]) -> dict[int, str]:
  """Why units that give a constant cannot be folded; '' for those that can.

  Args:
    tie: the tie of the units.
    arrays: the parameters.
    readers: what reads them.
    seen: what readers see, for several inputs.
    moved: what they see if other kernels make the units.
    drawn: for other parameters, what they see for several inputs.
  """
  makers, members = (_members(tie, role) for role in ('makes', 'reads'))
  if not makers or not members:
    return {}
  made = _any(tie, makers, arrays)
  whys = [_why_not(m, readers[m.path]) for m in members]
  away = _scaled_away(tie, arrays)
  if away is not None and not any(whys):
    made &= ~(away & _independent(tie, members, readers, [*seen, *moved]))
  need = np.flatnonzero(_any(tie, members, arrays) & ~made)
  why = (f'read by {tie.read}' if tie.read
         else f'each along {tie.along}' if tie.along
         else next(filter(None, whys), ''))
  if why or not len(need):
    return dict.fromkeys(need.tolist(), why)
  found = dict.fromkeys(need.tolist(), '')
  for member in members:
    reader = cast(Reader, readers[member.path])  # Or `why` would say it.
    alike = np.all([_alike(tie, member, reader, some)
                    for some in (seen, *drawn)], axis=0)
    first = _of_units(tie, member, reader, seen[0][member.path])
    zero = (first.first == 0).reshape(tie.size, -1).all(1)
    for u in need.tolist():
      found[u] = found[u] or _why_not_unit(
          member, reader, bool(alike[u]), bool(zero[u]), arrays)
  return found


def _scaled_away(tie: Tie, arrays: Mapping[str, np.ndarray]
                 ) -> np.ndarray | None:
  """Which units may be so: something beside their kernels is zero."""
  beside = _members(tie, 'beside')
  if tie.along or not beside:
    return None
  found = np.any([~_any(tie, [m], arrays) for m in beside], axis=0)
  return found if (found & _any(tie, _members(tie, 'makes'), arrays)
                   ).any() else None


def _independent(tie: Tie, members: Sequence[Member], readers: Readers,
                 seen: Sequence[Mapping[str, Seen]]) -> np.ndarray:
  """Whether all that reads a unit sees one number, whatever kernels make it."""
  return np.all([_alike(tie, m, cast(Reader, readers[m.path]), seen)
                 for m in members], axis=0)


def _alike(tie: Tie, member: Member, reader: Reader,
           seen: Sequence[Mapping[str, Seen]]) -> np.ndarray:
  """Whether a reader sees one number of each unit, each time the same."""
  first, *others = (_of_units(tie, member, reader, s[member.path])
                    for s in seen)
  alike: Any = first.same
  for other in others:
    alike = alike & other.same & (first.first == other.first)
  return alike.reshape(tie.size, -1).all(1)


def _any(tie: Tie, members: Sequence[Member],
         arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """Whether any element of a unit is not zero, of `tie.shape`."""
  found = np.zeros(tie.shape, bool)
  for member in members:
    there = ties_lib.view(tie, member, arrays[member.path] != 0)
    found |= there.any(tuple(range(found.ndim, there.ndim)))
  return found


def _why_not(member: Member, reader: Reader | str) -> str:
  """Why no unit can be folded into a reader, or ''."""
  if isinstance(reader, str):
    return reader
  if member.elsewhere:
    return f'{member} is a part of other axes'
  if member.axis not in reader.contracted:
    return f'{member.path} meets parameters before data'
  return ''


def _why_not_unit(member: Member, reader: Reader, alike: bool, zero: bool,
                  arrays: Mapping[str, np.ndarray]) -> str:
  """Why one unit cannot be folded into a reader, or ''."""
  if not alike:
    return f'no constant where {member.path} reads it'
  if zero:
    return ''
  if reader.padded:
    return f'padding breaks it at the borders of {member.path}'
  if isinstance(reader.vector, str):
    return f'{member.path}: {reader.vector}'
  if _order(reader, arrays[member.path], arrays[reader.vector.path]) is None:
    return f'{reader.vector.path} has no place for all that {member.path} gives'
  return ''


def _of_units(tie: Tie, member: Member, reader: Reader, seen: Seen) -> Seen:
  """What is seen of units, `[size, ...]`."""
  at = ties_lib.positions(tie, member)[member.axis]
  axis = reader.contracted.index(member.axis)
  return Seen(*(np.moveaxis(np.asarray(x), axis, 0)[at] for x in seen))


def _order(reader: Reader, w: np.ndarray, b: np.ndarray) -> list[int] | None:
  """The free axes of a kernel, but those of size 1, in the vector's order.

  `None` if the vector lacks one, or has others: a table of positions, say.
  """
  free = [axis for axis in sorted(reader.free) if w.shape[axis] > 1]
  axes = cast(Vector, reader.vector).axes
  there = [axes[reader.free[axis]] for axis in free]
  if None in there or b.size != math.prod(w.shape[axis] for axis in free):
    return None
  return [k for _, k in sorted(zip(there, range(len(free))))]


def _fold(tie: Tie, member: Member, at: np.ndarray,
          arrays: dict[str, np.ndarray], reader: Reader, seen: Seen) -> None:
  """Moves what units give to one reader, in place."""
  w = arrays[member.path]
  here = ties_lib.positions(tie, member)[member.axis][at].reshape(-1)
  given = np.zeros(np.shape(seen.first))
  axis = reader.contracted.index(member.axis)
  index = (slice(None),) * axis + (here,)
  given[index] = np.asarray(seen.first, np.float64)[index]
  if given.any():
    constants = np.transpose(given, np.argsort(reader.contracted)).reshape(
        [n if k in reader.contracted else 1 for k, n in enumerate(w.shape)])
    more = (w.astype(np.float64) * constants).sum(
        (*reader.contracted, *reader.window)).squeeze()
    vector = cast(Vector, reader.vector)
    b = arrays[vector.path]
    more = more.transpose(_order(reader, w, b)).reshape(b.shape)
    b[...] = b + vector.sign * more
  ties_lib.view(tie, member, w)[at] = 0
