"""Files of recipes, and bounds on their size.

A recipe may come from an untrusted source, and a YAML file of 300 bytes can
describe more values than memory holds. So the size of a file is bounded, and so
are the depth and the number of its values, where an alias counts as all the
values it stands for. Every fault of a file is a `ValueError` that names the
file; only a file that does not exist, or cannot be read, is an `OSError`.
"""

import json
import pathlib
import stat
from typing import Any, Callable, Mapping

from jaxsparse._utils.tables import brief
from jaxsparse._utils.tables import one_line

LARGEST_FILE = 2**18  # Bytes.
MOST_VALUES = 20_000  # A layer with every key has about 50.
DEEPEST = 20
LONGEST_TEXT = 2**14
_LONGEST_REASON = 300


def load(recipe: Any) -> tuple[str, Mapping[str, Any]]:
  """The path of a file as text, and the mapping that the file holds.

  Raises:
    ValueError: if `recipe` is neither a mapping nor a path, or the file does
      not hold a mapping.
    OSError: if the file does not exist or cannot be read.
    ImportError: for a YAML file without PyYAML.
  """
  try:
    path = pathlib.Path(recipe)
  except TypeError as error:
    raise ValueError(
        'A recipe must be a mapping, or the path of a file with one, got '
        f"{brief(recipe)}. Write e.g. {{'sparsity': 0.9}}.") from error
  name = brief(str(path), 200).strip('\'"')
  text = _read(path, name)
  found = _json(name, text) if path.suffix == '.json' else _yaml(name, text)
  if not isinstance(found, Mapping):
    raise ValueError(f'{name} must hold a mapping of keys to values, got '
                     f'{brief(found)}. Write e.g. sparsity: 0.9')
  return name, found


def yaml_library() -> Any:
  """PyYAML, an optional dependency that only recipes need."""
  try:
    import yaml
  except ImportError as error:
    raise ImportError(
        'YAML recipes need PyYAML: pip install pyyaml. Without it write JSON, '
        'in a file whose name ends in .json, or give a dict.') from error
  return yaml


def check_bounds(name: str, recipe: Any) -> None:
  """Raises a `ValueError` if a recipe exceeds the bounds on size and depth.

  Args:
    name: the name of the recipe in the message.
    recipe: the recipe: mappings, lists and single values.
  """
  todo: list[tuple[Any, int, str]] = [(recipe, 0, '')]
  seen = 0
  while todo:
    value, depth, where = todo.pop()
    if depth > DEEPEST:
      raise ValueError(_too_deep(f'{name}: {where}'))
    if isinstance(value, (str, bytes)) and len(value) > LONGEST_TEXT:
      raise ValueError(
          f'{name}: {where} must be a text of at most {LONGEST_TEXT} '
          f'characters, got {len(value)}. Write a shorter text.')
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
      inside = [*value.items()] if len(value) < MOST_VALUES else [(0, 0)]
    elif isinstance(value, (list, tuple)):
      inside = [*enumerate(value)] if len(value) < MOST_VALUES else [(0, 0)]
    seen += max(len(inside), len(value) if inside else 0)
    if seen > MOST_VALUES:
      raise ValueError(_too_many(name))
    todo += [(x, depth + 1, where or brief(key)) for key, x in inside]


def _too_deep(where: str) -> str:
  return (f'{where} is nested {DEEPEST} levels deep or more, or '
          'contains itself. A recipe has mappings of at most five levels; '
          'write e.g. layers: [{names: head/kernel, sparsity: 0.5}]')


def _too_many(where: str) -> str:
  return (f'{where} has more than {MOST_VALUES} values, where each alias of '
          'YAML counts as all values it stands for. Write one regular '
          "expression for many parameters, e.g. names: ['layer_[0-9]+/kernel']")


def _read(path: pathlib.Path, name: str) -> str:
  try:
    status = path.stat()
  except ValueError as error:  # A zero byte.
    raise ValueError(
        f'{name} is not the path of a file: {error}. Write e.g. '
        "from_recipe('prune.yaml', total_steps=1_000).") from error
  if not stat.S_ISREG(status.st_mode):
    raise ValueError(
        f'{name} must be a file, but is a '
        f'{"directory" if path.is_dir() else "device or a pipe"}. Write e.g. '
        "from_recipe('prune.yaml', total_steps=1_000).")
  with path.open('rb') as file:
    data = file.read(LARGEST_FILE + 1)
  if len(data) > LARGEST_FILE:
    raise ValueError(
        f'{name} must have at most {LARGEST_FILE} bytes, and has more. Write '
        "one regular expression for many parameters, e.g. names: "
        "['layer_[0-9]+/kernel']")
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
        f'{name} is not text in UTF-8: {error.reason} at byte {error.start}. '
        'Save it as UTF-8.') from error


def _json(name: str, text: str) -> Any:
  def mapping(pairs):
    once = _once(name)
    for key, _ in pairs:
      once(key)
    return dict(pairs)
  try:
    found = json.loads(text, object_pairs_hook=mapping)
  except RecursionError as error:
    raise ValueError(_too_deep(name)) from error
  except _Told as error:
    raise ValueError(str(error)) from error
  except ValueError as error:
    raise ValueError(_unreadable(name, 'JSON', error)) from error
  check_bounds(name, found)
  return found


class _Told(ValueError):
  """An error whose message is complete."""


def _once(name: str) -> Callable[[Any], None]:
  """A function to call with every key of a mapping; raises for a repeated one.
  """
  seen = set()

  def once(key):
    if key in seen:
      raise _Told(f'{name} has the key {brief(key)} twice in one mapping, so '
                  'one value would be lost. Remove one of them.')
    seen.add(key)
  return once


def _unreadable(name: str, kind: str, error: Exception) -> str:
  return (f'{name} is not {kind} that can be read: '
          f'{one_line(" ".join(str(error)[:2000].split()), _LONGEST_REASON)}')


def _yaml(name: str, text: str) -> Any:
  yaml = yaml_library()
  loader = _loader(yaml, name)
  try:
    found = yaml.load(text, loader)
  except _Told as error:
    raise ValueError(str(error)) from error
  except yaml.YAMLError as error:
    raise ValueError(_unreadable(name, 'YAML', error)) from error
  except RecursionError as error:
    raise ValueError(_too_deep(name)) from error
  check_bounds(name, found)
  return found


def _loader(yaml: Any, name: str) -> type[Any]:
  """A loader that counts the nodes of a file before it makes values of them."""

  class Loader(yaml.SafeLoader):
    """Reads a mapping with a tag, such as `!Pruner`, as a plain mapping."""

    def __init__(self, stream):
      super().__init__(stream)
      self.values, self.depth = 0, 0
      self.sizes: dict[str, int] = {}  # The sizes of finished anchored nodes.

    def compose_node(self, parent, index):
      event = self.peek_event()
      line = f'{name}, line {event.start_mark.line + 1}'
      if isinstance(event, yaml.AliasEvent):
        if event.anchor in self.anchors and event.anchor not in self.sizes:
          raise _Told(f'{line}: the alias *{brief(event.anchor).strip(chr(39))}'
                      ' is inside of the value it stands for. Write the value '
                      'out.')
        self.count(self.sizes.get(event.anchor, 0))
        return super().compose_node(parent, index)
      before = self.values
      self.count(1)
      self.depth += 1
      if self.depth > DEEPEST:
        raise _Told(_too_deep(line))
      node = super().compose_node(parent, index)
      self.depth -= 1
      if event.anchor is not None:
        self.sizes[event.anchor] = self.values - before
      return node

    def count(self, more):
      self.values += more
      if self.values > MOST_VALUES:
        raise _Told(_too_many(name))

    def compose_mapping_node(self, anchor):
      node = super().compose_mapping_node(anchor)
      # Only keys as written: merge keys are resolved later and may repeat them.
      once = _once(name)
      for key, _ in node.value:
        line = f'{name}, line {key.start_mark.line + 1}'
        if not isinstance(key, yaml.ScalarNode):
          raise _Told(f'{line}: a key must be a word, got a list or a mapping. '
                      'Write e.g. sparsity: 0.9')
        once(key.value)
      return node

    def construct_object(self, node, deep=False):
      try:
        return super().construct_object(node, deep=deep)
      except (yaml.YAMLError, _Told, RecursionError):
        raise
      except Exception as error:  # `!!bool maybe` is a KeyError, and so on.
        kind = node.tag.rpartition(':')[2]
        raise _Told(
            f'{name}, line {node.start_mark.line + 1}: {brief(node.value)} is '
            f'not of the type {brief(kind).strip(chr(39))} of its tag. Leave '
            'the tag out, or put the value in quotes.') from error

  def tagged(loader, tag, node):
    if not isinstance(node, yaml.MappingNode):
      raise _Told(f'{name}, line {node.start_mark.line + 1}: the tag '
                  f'{brief(tag)} needs a mapping after it, got another value. '
                  'Write e.g. - !Pruner {names: ...}')
    return loader.construct_mapping(node, deep=True)
  Loader.add_multi_constructor('!', tagged)
  return Loader
