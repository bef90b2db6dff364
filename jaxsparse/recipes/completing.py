"""Complete recipes: every key of a recipe, from the given keys and defaults."""

from typing import Any, Sequence

from jaxsparse.recipes import _checks
from jaxsparse.recipes import _words
from jaxsparse.recipes import schema
from jaxsparse.recipes.schema import Section
from jaxsparse.recipes.schema import Shared
from jaxsparse.recipes.schema import Top
from jaxsparse.recipes.schema import Values
from jaxsparse.recipes.schema import Whole

# A layer with one of these keys has a rule of its own.
OWN = [name for name in Section.keys() if name not in Shared.keys()]
# Under pattern lock, no other keys than these have a meaning.
_LOCKED = ('pattern', 'axis', 'reduce', 'lock', 'regularizer')


def complete(recipe: Values, total_steps: int, exclude: Sequence[str] = ()
             ) -> dict[str, Any]:
  """Checks a recipe, and fills in every key.

  A layer with one of the keys in `OWN` gets all keys of a section. Any other
  layer gets only the keys of `Shared`; without a sparsity of its own it shares
  the sparsity of the main section.

  Args:
    recipe: the recipe of a user.
    total_steps: the length of training, in steps.
    exclude: more regular expressions for parameters that stay dense.

  Returns:
    The complete recipe, plain data. Completing it again changes nothing.

  Raises:
    ValueError: for an unknown key or a wrong value, at any depth.

  >>> whole = complete({'sparsity': 0.9}, 1_000)
  >>> whole['end'], whole['frequency'], whole['criterion']
  (700, 7, {'magnitude': {}})
  """
  total_steps = _checks.total_steps('total_steps', total_steps)
  given = Whole.read('', recipe)
  top = _top(given, exclude)
  if top['method'] is not None:
    return _with_method(given, top, total_steps)
  (word, options), = top['flow'].items()
  level = _words.FLOWS[word].options
  top['flow'] = {word: level.fill(options, total_steps)}
  level(**top['flow'][word]).check(f'flow.{word}', total_steps)

  given = {name: given[name] for name in Section.keys() if name in given}
  main = _section('the recipe', given, top, total_steps, bool(top['names']))
  if main['sparsity'] is not None:
    given['sparsity'] = main['sparsity']
  layers = [_layer(f'layers[{i}]', layer, given, top, total_steps)
            for i, layer in enumerate(top['layers'])]
  if any('lock' not in layer for layer in layers):
    _check_curve(main)
  return {**main, **top, 'layers': layers}


def _check_curve(main: Values) -> None:
  """Raises if layers without a rule of their own follow no known curve."""
  curve = main['decay'] == 'exponential' or main['initial_sparsity']
  if main['sparsity'] is None and curve:
    raise ValueError(
        'the recipe: layers without a rule of their own follow its curve, '
        'which for exponential decay and for initial_sparsity depends on its '
        f'sparsity, got none, with decay={main["decay"]} and '
        f'initial_sparsity={main["initial_sparsity"]}. Write e.g. sparsity: '
        '0.9 in the recipe, or decay: cubic and initial_sparsity: 0')


def _top(given: Values, exclude: Sequence[str]) -> dict[str, Any]:
  """The checked keys of `Top`, with defaults."""
  top, exclude = Top.fill(given), _checks.regexes('exclude', exclude)
  top['excluded'] = [
      *(r for r in exclude if r not in top['excluded']), *top['excluded']]
  regexes = [*top['excluded'], *(r for layer in top['layers'] for r in
                                 layer.get('names', [])), *top['names']]
  if twice := [r for i, r in enumerate(regexes) if r in regexes[:i]]:
    raise ValueError(
        f'The regular expression {twice[0]!r} appears twice in the recipe. The '
        'first one decides, in the order excluded, layers, names, so the '
        'second one would do nothing. Remove one of them.')
  if not top['names'] and not top['layers']:
    raise ValueError('A recipe needs names or layers, or nothing would be '
                     "pruned, got neither. Write e.g. names: ['.*kernel']")
  return top


# The keys that a recipe may have beside a method.
_BESIDE = ('names', 'excluded', 'layers', 'scope', 'method', *Shared.keys())


def _with_method(given: Values, top: Values, total_steps: int
                 ) -> dict[str, Any]:
  """Every key of a recipe that takes its rule and flow from a method."""
  (word, options), = top['method'].items()
  for where, level in [('the recipe', given)] + [
      (f'layers[{i}]', layer) for i, layer in enumerate(top['layers'])]:
    if other := [name for name in level if name not in _BESIDE or (
        level is not given and name == 'scope')]:
      raise ValueError(
          f'{where}: method {word} has a rule and a flow of its own, so '
          f'{other} have no meaning. Leave them out; options of {word} are '
          f'{", ".join(options) or "none"}.')
  # No other key of a section counts; one_shot has defaults for any training.
  shared = {name: given[name] for name in Shared.keys() if name in given}
  shared['decay'] = 'one_shot'
  around = {**top, 'flow': {'hard': {}}}
  main = _section('the recipe', shared, around, total_steps, bool(
      top['names']) and _words.takes_sparsity(word))
  layers = [_layer(f'layers[{i}]', layer, shared, around, total_steps)
            for i, layer in enumerate(top['layers'])]
  return {**{name: main[name] for name in Shared.keys()},
          'scope': given.get('scope'), 'names': top['names'],
          'excluded': top['excluded'], 'layers': layers,
          'method': top['method']}


def _layer(where: str, layer: Values, main: Values, top: Values,
           total_steps: int) -> dict[str, Any]:
  """Every key of a layer with a rule of its own; else the `Shared` keys."""
  if not layer.get('names'):
    raise ValueError(f'{where} has no names, the regular expressions of its '
                     "parameters. Write e.g. names: ['head/kernel']")
  own = any(name in layer for name in OWN)
  foreign = _foreign(layer, own)
  given = {name: value for name, value in main.items() if name not in foreign}
  given |= {name: value for name, value in layer.items() if name != 'names'}
  section = _section(where, given, top, total_steps, True)
  if not own:
    section = {name: section[name] for name in Shared.keys()}
    section['sparsity'] = layer.get('sparsity')
  return {'names': layer['names'], **section}


def _foreign(layer: Values, own: bool) -> set[str]:
  """The keys of the main section that a layer's own keys make meaningless."""
  if layer.get('lock'):
    return {*Section.keys()} - {*_LOCKED}
  foreign = set()
  if _checks.nm_sparsity(layer.get('pattern', '')) is not None:
    foreign.add('sparsity')
  elif 'pattern' in layer:
    foreign.add('axis')
  if 'criterion' in layer and not schema.row_of(layer).accumulates:
    foreign.add('score_dtype')
  if not own or layer.get('decay') == 'one_shot':
    foreign.add('initial_sparsity')
  return foreign


def _section(where: str, given: Values, top: Values, total_steps: int,
             required: bool) -> dict[str, Any]:
  """Every key of a section, from the given keys and defaults."""
  section = Section.fill(given, total_steps, top)
  if section['progressive']:
    section['progressive'] = _words.Progressive.fill(
        section['progressive'], total_steps, section)
  if section['lock']:
    if other := [name for name in given if name not in _LOCKED]:
      raise ValueError(
          f'{where}: lock only keeps the present zeros, so {other} have no '
          'meaning. Leave them out, or write lock: false')
    section |= dict.fromkeys({*section} - {*_LOCKED})
  elif section['sparsity'] is None and required:
    raise ValueError(f'{where} has no sparsity, the fraction pruned at the '
                     'end. Write e.g. sparsity: 0.9')
  Section(**section).check(where, total_steps)
  return section
