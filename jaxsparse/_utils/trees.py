"""Paths, regular expressions for them, and conventions for trees.

Three conventions hold everywhere:

* parameters come **first** in every `jax.tree.map`, masks after them, so that
  `None` in a mask tree ("dense") arrives as a value instead of a structure
  error;
* a leaf's path is its keys joined with '/', as in `'encoder/0/mlp/kernel'`.
  The trailing `.value` that Flax's NNX variables and Linen's partitioning
  boxes add is dropped, so the same regex serves all of them;
* a tree without leaves maps to itself: `optax.tree_map_params` calls `init`
  with such a placeholder.
"""

import collections
import difflib
import re
from typing import Any, Callable, Mapping, Sequence

import jax
import numpy as np
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils.tables import brief

PyTree = Any


def _name(key: Any) -> str:
  for attribute in ('key', 'name', 'idx'):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def paths(tree: PyTree) -> list[str]:
  """The path of every leaf, in the order of `jax.tree.leaves`.

  >>> paths({'mlp': {'bias': 0., 'kernel': 1.}, 'head': [2.]})
  ['head/0', 'mlp/bias', 'mlp/kernel']
  """
  rows = [keys for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
  parents = collections.Counter(keys[:-1] for keys in rows)

  def is_box(keys):  # An attribute `value` without siblings.
    return (len(keys) > 1 and parents[keys[:-1]] == 1
            and isinstance(keys[-1], jax.tree_util.GetAttrKey)
            and keys[-1].name == 'value')
  return ['/'.join(map(_name, keys[:-1] if is_box(keys) else keys))
          for keys in rows]


def own_paths(tree: PyTree) -> list[str]:
  """`paths`, of which no two may be equal.

  Raises:
    ValueError: if two parameters have one path, by which they could not be told
      apart.
  """
  names = paths(tree)
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    rows = [jax.tree_util.keystr(keys) for name, (keys, _) in zip(
        names, jax.tree_util.tree_leaves_with_path(tree)) if name == twice[0]]
    raise ValueError(
        f'Parameters must have different paths, but {" and ".join(rows)} have '
        f'the path {twice[0]!r}. Rename one of them; a key that contains "/" '
        'looks like a nested key.')
  return names


def map_with_path(f: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
  """`jax.tree.map` whose function gets the path of the leaf first."""
  names = jax.tree.unflatten(jax.tree.structure(tree), own_paths(tree))
  return jax.tree.map(
      lambda leaf, name, *others: f(name, leaf, *others), tree, names, *rest)


def align(params: PyTree, *rest: PyTree) -> list[tuple[Any, ...]]:
  """Leaves side by side: `[(path, param, other, ...), ...]`, `None` included.

  `rest` must have the structure of `params`; where `params` has a leaf, a tree
  of `rest` may have `None`.
  """
  rows = []
  map_with_path(lambda *row: rows.append(row), params, *rest)
  return rows


def same_structure(params: PyTree, masks: PyTree, name: str = 'masks') -> None:
  """Raises a `ValueError` that names what differs, a structure or a shape."""
  leaf = jax.tree.structure(0)
  try:
    rows = align(params, masks)
    same = all(is_dense(m) or jax.tree.structure(m) == leaf for *_, m in rows)
  except ValueError:
    rows, same = [], False
  if not same:
    raise ValueError(
        f'`{name}` must have the structure of the parameters, with a bool '
        f'array or None at every parameter. Got {_differing(params, masks)} '
        f'in parameters and {_differing(masks, params)} in {name}. Write e.g. '
        '`masks = jaxsparse.get_masks(opt_state)`.')
  for path, w, m in rows:
    if is_dense(m):
      continue
    kind = getattr(m, 'dtype', type(m))
    if kind not in (bool, np.bool_) or np.shape(m) != np.shape(w):
      raise ValueError(
          f'{named(path)}: '
          'a mask must be a bool array of the shape of its parameter, '
          f'{np.shape(w)}, got {kind} of shape {np.shape(m)}. Write e.g. '
          '`masks = jaxsparse.get_masks(opt_state)`.')


def check_arrays(name: str, tree: PyTree) -> None:
  """Raises a `ValueError` that names a leaf that is not an array."""
  for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if not arguments.is_array(leaf):
      raise ValueError(
          f'{name} must be a tree of arrays, got {brief(leaf)} at '
          f'{jax.tree_util.keystr(keys) or "its root"}.')


def check_beside(params: PyTree, tree: PyTree) -> None:
  """Raises a `ValueError` unless a tree has something for every parameter."""
  try:
    jax.tree.structure(params).flatten_up_to(tree)
  except ValueError as error:
    raise ValueError(
        'A tree must have the structure of the params, got '
        f'{_differing(tree, params)} where these have '
        f'{_differing(params, tree)}. Write e.g. tx.update(grads, opt_state, '
        'params), with gradients of all params.') from error


def _differing(tree: PyTree, other: PyTree) -> str:
  """Some paths of a tree, those first that the other does not have."""
  theirs = set(paths(other))
  return few(sorted(paths(tree), key=theirs.__contains__)) or 'nothing'


def nested_like(params: PyTree, masks: PyTree) -> PyTree:
  """`masks` in the structure of `params`, if only boxes or branches differ.

  `nnx.Optimizer` keeps its state in variables of another kind than the params,
  and optax has one placeholder for a whole branch that is another optimizer's.
  """
  structure = jax.tree.structure(params)
  leaves, other = flatten_dense(masks)
  found = dict(zip(paths(other.unflatten([0] * len(leaves))), leaves))
  if other == structure or len(found) != len(leaves):
    return masks
  places = []
  for path in paths(params):
    place = path
    while place and place not in found:
      place, _, _ = place.rpartition('/')
    if place not in found or (
        place != path and not is_masked(found[place])):
      return masks
    places.append(place)
  if set(places) != set(found):
    return masks
  return structure.unflatten([found[place] for place in places])


def beside(params: PyTree, tree: PyTree) -> list[Any] | None:
  """What the params have at the place of each leaf of a tree like them.

  A tree is like the params if it has a leaf at the place of each parameter, as
  moments do. For parameters that are another optimizer's, it may have `None` or
  optax's placeholder instead, one for a whole branch, too. The params may have
  placeholders themselves, inside of `optax.partition`.

  Returns:
    The params at the leaves of `tree`, in the order of `flatten_dense(tree)`,
    or `None` if the tree is not like the params.
  """
  leaves, structure = flatten_dense(tree)
  try:
    found = structure.flatten_up_to(params)
  except ValueError:
    return None
  weights = [w for leaf, w in zip(leaves, found) if not is_dense(leaf)]
  return found if jax.tree_util.all_leaves(weights) else None


def flatten_dense(tree: PyTree) -> tuple[list[Any], Any]:
  """Leaves and structure, where `None` and optax's placeholder are leaves."""
  return jax.tree.flatten(tree, is_leaf=is_dense)


def named(path: str) -> str:
  """A path for a message; that of a tree which is one array is empty."""
  return path or 'the parameter'


def few(names: Sequence[str]) -> str:
  """At most three names for a message, and how many more there are.

  >>> few(['a', 'b']), few(['a', 'b', 'c', 'd', 'e'])
  ('a, b', 'a, b, c and 2 more')
  """
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more


def match_rules(rules: Mapping[str, Any], tree: PyTree) -> PyTree:
  """The value of the first rule whose regex fully matches each leaf's path.

  Args:
    rules: maps regular expressions to values; order matters, first match wins.
      A leaf that no rule matches gets `None`.
    tree: any pytree.

  Returns:
    A tree of the structure of `tree` holding values of `rules` or `None`.

  Raises:
    ValueError: if a rule matches no leaf (it would silently do nothing), or
      is not a regular expression. A rule that only ever loses to an earlier one
      counts as used, so a trailing catch-all `'.*'` is always fine.

  >>> match_rules({'.*/kernel': 'sparse', '.*': None},
  ...             {'mlp': {'kernel': 0., 'bias': 0.}})
  {'mlp': {'bias': None, 'kernel': 'sparse'}}
  """
  compiled = {}
  for regex in rules:
    try:
      compiled[regex] = re.compile(regex)
    except (re.error, TypeError) as error:
      raise ValueError(
          f'{regex!r} must be a regular expression ({error}). The parts of '
          "paths are joined with '/'. Write e.g. '.*/kernel'.") from error
  names = own_paths(tree)
  for regex, pattern in compiled.items():
    if names and not any(pattern.fullmatch(name) for name in names):
      near = difflib.get_close_matches(regex, names, n=3, cutoff=0.3)
      raise ValueError(
          f'{regex!r} matches no parameter, so it would have no effect. An '
          "expression must match a whole path, with parts joined by '/'. "
          f'Similar paths: {few(near) or "none"}; all paths: {few(names)}.')

  def lookup(path: str, _):
    for regex, pattern in compiled.items():
      if pattern.fullmatch(path):
        return rules[regex]
    return None

  return map_with_path(lookup, tree)


def nodes(tree: PyTree, kind: type) -> list[Any]:
  """All nodes of one type, however deep they sit in a tree."""
  found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
  return [node for node in found if isinstance(node, kind)]


def is_masked(leaf: Any) -> bool:
  """Whether optax put a placeholder where a parameter is another's."""
  return isinstance(leaf, optax.MaskedNode)


def is_dense(mask: Any) -> bool:
  """Whether a mask leaf means "not sparse": `None` or a node optax masked."""
  return mask is None or is_masked(mask)


def map_masked(f: Callable[..., Any], params: PyTree, masks: PyTree,
               *rest: PyTree, dense: Callable[..., Any] = lambda *_: None
               ) -> PyTree:
  """Maps `f(param, mask, ...)` over sparse leaves and `dense(param, ...)` over
  the others."""
  same_structure(params, masks)
  for tree in rest:
    check_beside(params, tree)
  return jax.tree.map(
      lambda w, m, *others: (
          dense(w, *others) if is_dense(m) else f(w, m, *others)),
      params, masks, *rest)
