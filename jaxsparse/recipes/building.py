"""`from_recipe`: rule, flow and regulariser from a dict or a YAML file.

  made = from_recipe('prune.yaml', total_steps=10_000)
  tx = made.sparsify(optax.adam(1e-3))
  to_recipe(made, workdir / 'recipe.yaml')     # with all defaults written out

An example of prune.yaml:

  sparsity: 0.9
  pattern: 4x1
  excluded: head/kernel
  layers:
  - names: .*attention.*kernel
    pattern: '2:4'

`help(jaxsparse.recipes.schema)` shows the table of all keys. `criterion`,
`flow` and `regularizer` take a word or {word: options}. A layer switches the
main `regularizer` off with false. A key with null counts as absent, so the
layer inherits its value.

**The pattern `'2:4'` keeps 2 of every 4 weights**, and so `'1:4'` is sparser.
The quotes are needed because YAML reads 2:4 as 124. N:M groups run along
`axis`, the contraction axis, which is -2 for `[in, out]` kernels. Attention's
projections `[in, heads, head_dim]` contract axis -3, and its output
`[heads, head_dim, out]` contracts [-3, -2]. N:M has its own sparsity, so
`scope`, `min_sparsity`, `max_sparsity` and `reduce` have no effect on it.
Blocks are written **outputs x inputs**, as in Neural Compressor: on `[in, out]`
kernels `4x1` is `block((1, 4))` and `1x16` is `block((16, 1))`. The patterns
`channel` and `1xchannel` prune output channels, `channelx1` input features.

The first regular expression that matches the whole path of a parameter decides
about the parameter. Expressions are tried in the order `excluded`, `layers`,
`names`. An expression without a match is an error. So is the expression of a
layer if earlier expressions match all of its parameters. A layer that has only
keys from `sparsity` to `max_sparsity` in the table stays under the main rule
and its global threshold. If such a layer has its own sparsity, it leaves the
threshold, and at `start` the same share of its sparsity is pruned. A layer with
any other key has its own rule and its own threshold.

`method: rigl`, or `method: {rigl: {every: 200}}`, names a published method. The
method brings its own rule and flow, so keys such as `criterion` or `frequency`
are refused beside it.

The module `neural_compressor` reads the YAML files of Neural Compressor.
"""

import copy
import functools
import json
import pathlib
import re
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import jax.numpy as jnp
import optax

from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import patterns
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scores
from jaxsparse import transform
from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.tables import brief
from jaxsparse.recipes import _checks
from jaxsparse.recipes import _files
from jaxsparse.recipes import _words
from jaxsparse.recipes import completing
from jaxsparse.recipes import neural_compressor

Section = Mapping[str, Any]
_EPOCH = arguments.any_of(
    arguments.step(1, 'len(dataset) // batch'), arguments.NONE)
Patterns = dict[str, patterns.Pattern | None]


class Recipe(NamedTuple):
  """The result of `from_recipe`.

  Attributes:
    rule: the rule, which decides when masks change and which weights they keep.
    flow: the flow, which decides how pruned weights take part in training.
    regularizer: a function that wraps an optimizer with the recipe's
      regulariser, if it has one. The method `sparsify` returns
      `sparsify(regularizer(optimizer), rule, flow)`.
    recipe: the whole recipe with every default, as plain data.
    messages: messages about keys of a Neural Compressor file that have no
      meaning, or another one, here.
  """
  rule: rules.Rule
  flow: flows.Flow
  regularizer: Callable[
      [optax.GradientTransformation], optax.GradientTransformation]
  recipe: dict[str, Any]
  messages: tuple[str, ...] = ()

  def sparsify(self, optimizer: optax.GradientTransformation
               ) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer with the regulariser, rule and flow of the recipe.

    Args:
      optimizer: any optax optimizer.

    Returns:
      An optax transformation with a `SparseState`.
    """
    return transform.sparsify(
        self.regularizer(optimizer), self.rule, self.flow)


def from_recipe(recipe: Mapping[str, Any] | str | pathlib.Path, *,
                total_steps: int, steps_per_epoch: int | None = None,
                exclude: str | Sequence[str] = ()) -> Recipe:
  """Makes rule, flow and regulariser from a recipe.

  Args:
    recipe: a mapping with the keys of `schema`, or the path of a YAML or JSON
      file with them. Both may also have the keys of Neural Compressor.
    total_steps: the number of updates in the training.
    steps_per_epoch: the number of updates in an epoch, for files that count
      epochs.
    exclude: more regular expressions for parameters that stay dense, such as
      those of the last linear layer.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: for an unknown key at any depth, with the nearest known key; for
      a wrong value; for steps or sparsities that contradict each other; for a
      recipe above 20_000 values, 20 levels or a file of 256 KB, where each
      alias of YAML counts as all the values it stands for. The message names
      the key, and the file or its line. From the rule's `init`, if an
      expression matches nothing or a pattern does not fit.
    OSError: if the file does not exist or cannot be read.
    ImportError: for a YAML file without PyYAML.

  >>> from jaxsparse import rules
  >>> made = from_recipe({'pattern': '1:4', 'decay': 'one_shot'},
  ...                    total_steps=100)
  >>> params = {'kernel': jnp.arange(4.)[:, None], 'bias': jnp.ones(1)}
  >>> masks = made.sparsify(optax.sgd(0.1)).init(params).masks
  >>> print(masks['kernel'][:, 0], masks['bias'])
  [False False False  True] None
  """
  _EPOCH('steps_per_epoch', steps_per_epoch)
  name = ''
  if not isinstance(recipe, Mapping):
    name, recipe = _files.load(recipe)
  try:
    whole, messages = _whole(recipe, total_steps, steps_per_epoch, exclude)
    method = _method(whole, total_steps)
  except ValueError as error:
    raise (ValueError(f'{name}: {error}') if name else error) from error
  if method is not None:
    return Recipe(_all_used(method.rule, whole), method.flow,
                  lambda optimizer: optimizer, whole, tuple(messages))
  sections = _sections(whole)
  mappings = [_patterns(whole, section) for section in sections]
  made = [_rule(*row, total_steps) for row in zip(sections, mappings)]
  rule = rules.combine(*made) if made[1:] else made[0]
  return Recipe(
      _all_used(rule, whole), _flow(whole), _regularizer(sections, mappings),
      whole, tuple(messages))


def _whole(recipe: Mapping[str, Any], total_steps: int,
           steps_per_epoch: int | None, exclude: Sequence[str]
           ) -> tuple[dict[str, Any], Sequence[str]]:
  """The recipe with every key, and messages about keys without a meaning."""
  _files.check_bounds('A recipe', recipe)
  messages: Sequence[str] = ()
  if neural_compressor.is_one(recipe):
    recipe, messages = neural_compressor.translate(recipe, steps_per_epoch)
  return completing.complete(recipe, total_steps, exclude), messages


@arguments.checked('made')
def to_recipe(made: Recipe, path: str | pathlib.Path | None = None
              ) -> dict[str, Any]:
  """The whole recipe, with every key and default written out.

  `from_recipe` makes the same rule and flow from the result, even if a later
  version changes defaults.

  Args:
    made: the result of `from_recipe`.
    path: the path of a file to write, for example beside checkpoints: JSON if
      its name ends in .json, else YAML. The file is written completely or not
      at all.

  Returns:
    The recipe as plain data.

  Raises:
    ValueError: if `made` is not a `Recipe`, or `path` does not name a file.
    ImportError: for a YAML file without PyYAML.

  >>> made = from_recipe({'sparsity': 0.9}, total_steps=1_000)
  >>> recipe = to_recipe(made)
  >>> recipe['end'], recipe['scope'], recipe['flow']
  (700, 'uniform', {'hard': {}})
  """
  if not isinstance(made, Recipe):
    raise ValueError(
        f'to_recipe needs the result of from_recipe, got {brief(made)}. Write '
        'to_recipe(from_recipe(recipe, total_steps=...)).')
  recipe = copy.deepcopy(made.recipe)
  if path is not None:
    path = pathlib.Path(path)
    if not path.name:
      raise ValueError(f'path must name a file, got {brief(str(path))}. Write '
                       "e.g. to_recipe(made, 'recipe.yaml').")
    text = (json.dumps(recipe, indent=2) + '\n' if path.suffix == '.json'
            else _files.yaml_library().safe_dump(recipe, sort_keys=False))
    part = path.with_name(f'.{path.name}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(path)
  return recipe


def _is_own(layer: Section) -> bool:
  return 'lock' in layer  # `completing.complete` adds this key to such layers.


def _sections(recipe: Section) -> list[Section]:
  """The sections with rules: the main one, if it is used, and then layers."""
  own = [layer for layer in recipe['layers'] if _is_own(layer)]
  used = recipe['names'] or len(own) < len(recipe['layers'])
  return ([recipe] if used else []) + own


def _all_used(rule: rules.Rule, recipe: Section) -> rules.Rule:
  """The rule; `init` raises if earlier expressions match all of a layer."""
  def init(params):
    state, paths, taken = rule.init(params), trees.own_paths(params), {}
    for where, regexes in [('excluded', recipe['excluded'])] + [
        (f'layers[{i}].names', layer['names'])
        for i, layer in enumerate(recipe['layers'])]:
      for regex in regexes:
        found = [path for path in paths if re.fullmatch(regex, path)]
        late = bool(found) and all(path in taken for path in found)
        if late and where != 'excluded':
          first = taken[found[0]]
          # The order of excluded, layers and names is fixed.
          write = ('Narrow it, or remove this layer' if first.startswith(
              'excluded') else f'Move {regex!r} in front of it')
          raise ValueError(
              f'{where}: {regex!r} has no effect, because {first} matches '
              f'{trees.few(found)} first. {write}.')
        taken |= {p: f'{where} ({regex!r})' for p in found if p not in taken}
    return state
  checked = rule._replace(init=init)
  checked.progress = rule.progress
  return checked


def _patterns(recipe: Section, section: Section) -> Patterns:
  """All regular expressions in order, dense where another section prunes."""
  mapping: Patterns = dict.fromkeys(recipe['excluded'])
  for layer in (*recipe['layers'], recipe):
    here = layer is section or (section is recipe and not _is_own(layer))
    # A layer with a rule of its own has its sparsity in that rule.
    own = layer['sparsity'] if here and layer is not section else None
    mapping |= dict.fromkeys(
        layer['names'], _pattern(layer, own) if here else None)
  return mapping


def _pattern(section: Section, sparsity: float | None) -> patterns.Pattern:
  kind, (outputs, inputs) = _checks.sides(section['pattern']) or ('', (0, 0))
  if kind == ':':
    axis = section['axis']
    return patterns.nm(outputs, inputs, axis=axis if isinstance(
        axis, int) else tuple(axis))
  make = (_words.PATTERNS[section['pattern']] if not kind else
          functools.partial(patterns.block, (inputs, outputs)))
  bounds = {key: section[key] for key in ('min_sparsity', 'max_sparsity')
            if section[key] is not None}  # `None` under lock.
  return make(sparsity=sparsity, reduce=section['reduce'], **bounds)


def _score(section: Section) -> scores.Score:
  (name, options), = section['criterion'].items()
  dtype = section['score_dtype']
  return _words.CRITERIA[name].make(
      **options, **({'dtype': jnp.dtype(dtype)} if dtype else {}))


def _rule(section: Section, mapping: Patterns, total_steps: int) -> rules.Rule:
  if section['lock']:
    return rules.lock(mapping)
  sparsity, start, end = (section[k] for k in ('sparsity', 'start', 'end'))
  # Masks that are made until training ends are made at every step, so that they
  # are those of the weights after the step.
  last = None if end >= total_steps else end
  rule = rules.prune(
      mapping, score=_score(section),
      distribution=distributions.uniform() if sparsity is None else (
          _words.SCOPES[section['scope']](sparsity)),
      schedule=_schedule(section),
      when=schedules.every(section['frequency'], begin=start, end=last))
  if not section['progressive']:
    return rule
  return rules.progressive(
      rule, **section['progressive'], score=_score(section))


def _schedule(section: Section) -> schedules.Schedule:
  final, initial, start, end, decay = (section[key] for key in (
      'sparsity', 'initial_sparsity', 'start', 'end', 'decay'))
  curve = _words.DECAYS[decay](start, end, initial, final)
  return schedules.from_initial(
      curve, initial / final, start) if initial else curve


def _method(recipe: Section, total_steps: int) -> transform.Method | None:
  """The method of a recipe, if it has one."""
  if recipe['method'] is None:
    return None
  (word, options), = recipe['method'].items()
  given: dict[str, Any] = {
      'patterns': _patterns(recipe, recipe), 'total_steps': total_steps}
  sparsity, scope = recipe['sparsity'], recipe['scope']
  if scope and not _words.takes_scope(word):
    raise ValueError(
        f'scope: the layers of method {word} share its sparsity in a way of '
        f'its own, got {brief(scope)}. Leave scope out.')
  if _words.takes_sparsity(word):
    own = sparsity is None or _checks.nm_sparsity(recipe['pattern']) is not None
    given['sparsity'] = (
        _words.SCOPES[scope](sparsity) if scope else distributions.uniform()
        if own and _words.takes_scope(word) else sparsity)
  try:
    return _words.METHODS[word](**given, **options)
  except ValueError as error:
    told = str(error).removeprefix(f'{word}: ')
    raise ValueError(f'method.{word}: {told}') from error


def _flow(recipe: Section) -> flows.Flow:
  (word, options), = recipe['flow'].items()
  return _words.FLOWS[word].make(**options)


def _regularizer(sections: list[Section], mappings: list[Patterns]
                 ) -> Callable[[optax.GradientTransformation],
                               optax.GradientTransformation]:
  """Adds the regularizers of all sections before or after an optimizer."""
  terms = [_words.REGULARIZERS[word].make(mapping, **options)
           for section, mapping in zip(sections, mappings)
           for word, options in (section['regularizer'] or {}).items()]
  if not terms:
    return lambda optimizer: optimizer
  before, after = (sum(part, []) for part in zip(*terms))
  return lambda optimizer: optax.chain(*before, optimizer, *after)
