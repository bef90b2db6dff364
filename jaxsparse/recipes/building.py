"""Recipes as data: a plain dict or a YAML file makes rule, flow, regulariser.

  made = from_recipe('prune.yaml', total_steps=10_000)
  tx = made.sparsify(optax.adam(1e-3))
  to_recipe(made, workdir / 'recipe.yaml')     # all of it, defaults written out

where prune.yaml may hold

  sparsity: 0.9
  pattern: 4x1
  excluded: head/kernel
  layers:
  - names: .*attention.*kernel
    pattern: '2:4'

`help(jaxsparse.recipes.schema)` shows the table of all keys. `criterion`,
`flow` and `regularizer` take a word or {word: options}. A layer switches off
the main `regularizer` with false; null is as good as nothing and inherits it.

**The pattern `'2:4'` keeps 2 of every 4 weights**, and so `'1:4'` is sparser.
The quotes are needed because YAML reads 2:4 as 124. Groups of N:M lie along
`axis`, the contracted axis of `[in, out]` kernels; attention's projections
`[in, heads, head_dim]` contract -3 and its output [-3, -2]. N:M has its own
sparsity, so `scope`, `min_sparsity`, `max_sparsity` and `reduce` do nothing for
it. Blocks are **outputs x inputs**, as in Neural Compressor: on `[in, out]`
kernels `4x1` is `block((1, 4))` and `1x16` is `block((16, 1))`; `channel` or
`1xchannel` is an output channel, `channelx1` an input feature.

The first regular expression that matches the whole path of a parameter decides
about it: first `excluded`, then `layers` in their order, then `names`. An
expression without a match is an error, and so is one of a layer whose matches
are all taken before. A layer that gives only keys from `sparsity` to
`max_sparsity` in the table stays under the main rule, and under its global
threshold unless the layer has a sparsity of its own, of which the same share is
pruned at `start`. A layer that gives any other key has a rule and a threshold
to itself.

`method: rigl`, or `method: {rigl: {every: 200}}`, is a published method. It has
a rule and a flow of its own, so that keys such as `criterion` or `frequency`
may not stand beside it.

`neural_compressor` reads the YAML of Neural Compressor.
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
from jaxsparse.recipes import neural_compressor
from jaxsparse.recipes import schema

Section = Mapping[str, Any]
_EPOCH = arguments.any_of(
    arguments.step(1, 'len(dataset) // batch'), arguments.NONE)
Patterns = dict[str, patterns.Pattern | None]


class Recipe(NamedTuple):
  """What `from_recipe` makes.

  Attributes:
    rule: when masks change, and to what.
    flow: what pruned weights still give and get.
    regularizer: wraps the optimizer with the recipe's regulariser, if it has
      one; `sparsify(regularizer(optimizer), rule, flow)` is what the method
      `sparsify` does.
    recipe: the whole recipe, every default written out, as plain data.
    messages: what has no meaning here, or another one, in the file it came
      from.
  """
  rule: rules.Rule
  flow: flows.Flow
  regularizer: Callable[
      [optax.GradientTransformation], optax.GradientTransformation]
  recipe: dict[str, Any]
  messages: tuple[str, ...] = ()

  def sparsify(self, optimizer: optax.GradientTransformation
               ) -> optax.GradientTransformationExtraArgs:
    """The optimizer with regulariser, rule and flow around it."""
    return transform.sparsify(
        self.regularizer(optimizer), self.rule, self.flow)


def from_recipe(recipe: Mapping[str, Any] | str | pathlib.Path, *,
                total_steps: int, steps_per_epoch: int | None = None,
                exclude: str | Sequence[str] = ()) -> Recipe:
  """Makes rule, flow and regulariser from a recipe.

  Args:
    recipe: a mapping with the keys of `schema`, or the path of a YAML or JSON
      file with them; or either in the form of Neural Compressor.
    total_steps: how many updates training makes.
    steps_per_epoch: how many an epoch makes, for files that count epochs.
    exclude: more regular expressions of what stays dense, such as those of the
      last linear layer.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: for an unknown key, at any depth, with the one that was meant;
      for a value that is none; for steps or sparsities that contradict each
      other; for more than a recipe may have (20_000 values, 20 levels, a file
      of 256 KB), with aliases of YAML counted as all they stand for. The
      message names the key, and the file or its line. From the rule's `init`,
      if an expression matches nothing or a pattern does not fit.
    OSError: if there is no such file, or it may not be read.
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
  made = [_rule(*row) for row in zip(sections, mappings)]
  rule = rules.combine(*made) if made[1:] else made[0]
  return Recipe(
      _all_used(rule, whole), _flow(whole), _regularizer(sections, mappings),
      whole, tuple(messages))


def _whole(recipe: Mapping[str, Any], total_steps: int,
           steps_per_epoch: int | None, exclude: Sequence[str]
           ) -> tuple[dict[str, Any], Sequence[str]]:
  """The recipe with every key, and what has no meaning here."""
  _files.check_bounds('A recipe', recipe)
  messages: Sequence[str] = ()
  if neural_compressor.is_one(recipe):
    recipe, messages = neural_compressor.translate(recipe, steps_per_epoch)
  return schema.complete(recipe, total_steps, exclude), messages


@arguments.checked('made')
def to_recipe(made: Recipe, path: str | pathlib.Path | None = None
              ) -> dict[str, Any]:
  """The whole recipe, with every key and default written out.

  `from_recipe` makes the same of it, whatever defaults become.

  Args:
    made: what `from_recipe` returned.
    path: a file to write it to, for standing next to checkpoints: JSON if its
      name ends so, else YAML. It is there as a whole or not at all.

  Returns:
    Plain data.

  Raises:
    ValueError: for what is no `Recipe`.
    ImportError: for a YAML file without PyYAML.

  >>> made = from_recipe({'sparsity': 0.9}, total_steps=1_000)
  >>> recipe = to_recipe(made)
  >>> recipe['end'], recipe['scope'], recipe['flow']
  (700, 'uniform', {'hard': {}})
  """
  if not isinstance(made, Recipe):
    raise ValueError(
        f'to_recipe takes what from_recipe made, got {brief(made)}. Write '
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
  return 'lock' in layer  # As `schema.complete` leaves it.


def _sections(recipe: Section) -> list[Section]:
  """What has a rule of its own: the main section, if it is used, first."""
  own = [layer for layer in recipe['layers'] if _is_own(layer)]
  used = recipe['names'] or len(own) < len(recipe['layers'])
  return ([recipe] if used else []) + own


def _all_used(rule: rules.Rule, recipe: Section) -> rules.Rule:
  """The rule, whose `init` raises if a layer's expression comes too late."""
  def init(params):
    state, paths, taken = rule.init(params), trees.own_paths(params), {}
    for where, regexes in [('excluded', recipe['excluded'])] + [
        (f'layers[{i}].names', layer['names'])
        for i, layer in enumerate(recipe['layers'])]:
      for regex in regexes:
        found = [path for path in paths if re.fullmatch(regex, path)]
        late = bool(found) and all(path in taken for path in found)
        if late and where != 'excluded':
          raise ValueError(
              f'{where}: {regex!r} decides about nothing, as '
              f'{trees.few(found)} come under {taken[found[0]]} before. Put it '
              'in front of that.')
        taken |= {p: f'{where} ({regex!r})' for p in found if p not in taken}
    return state
  return rule._replace(init=init)


def _patterns(recipe: Section, section: Section) -> Patterns:
  """All regular expressions in their order; dense is what others prune."""
  mapping: Patterns = dict.fromkeys(recipe['excluded'])
  for layer in (*recipe['layers'], recipe):
    here = layer is section or (section is recipe and not _is_own(layer))
    # What has a rule of its own has its sparsity there.
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
            if section[key] is not None}  # As it is under lock.
  return make(sparsity=sparsity, reduce=section['reduce'], **bounds)


def _score(section: Section) -> scores.Score:
  (name, options), = section['criterion'].items()
  dtype = section['score_dtype']
  return _words.CRITERIA[name].make(
      **options, **({'dtype': jnp.dtype(dtype)} if dtype else {}))


def _rule(section: Section, mapping: Patterns) -> rules.Rule:
  if section['lock']:
    return rules.lock(mapping)
  sparsity, start, end = (section[k] for k in ('sparsity', 'start', 'end'))
  rule = rules.prune(
      mapping, score=_score(section),
      distribution=distributions.uniform() if sparsity is None else (
          _words.SCOPES[section['scope']](sparsity)),
      schedule=_schedule(section),
      when=schedules.every(section['frequency'], begin=start, end=end))
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
  """Puts the terms of all sections before an optimizer or after it."""
  terms = [_words.REGULARIZERS[word].make(mapping, **options)
           for section, mapping in zip(sections, mappings)
           for word, options in (section['regularizer'] or {}).items()]
  if not terms:
    return lambda optimizer: optimizer
  before, after = (sum(part, []) for part in zip(*terms))
  return lambda optimizer: optax.chain(*before, optimizer, *after)
