"""The schema of recipes: every key with its check, default and description.

Each level of a recipe, such as a layer or the options of a flow, is a dataclass
whose fields are the level's keys. Recipes themselves are plain data. `complete`
checks a recipe and writes out all defaults. Tables in `_words` map the words of
a recipe, such as criteria, to functions.

Only `sparsity` is required. Steps count updates. A key with dots in the table
is an option: `flow.sr_ste.decay` is {flow: {sr_ste: {decay: 0.0002}}}.
"""

import dataclasses
from typing import Any, Iterator, Literal, Mapping, Sequence

from jaxsparse.recipes import _checks
from jaxsparse.recipes import _words
from jaxsparse.recipes._checks import key
from jaxsparse.recipes._checks import Level

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Shared(Level):
  """The keys that do not give a layer a rule of its own."""
  sparsity: float | None = key(
      _checks.fraction,
      lambda recipe, total_steps: _checks.nm_sparsity(recipe['pattern']),
      'the fraction pruned at the end', 'N:M has its own')
  pattern: str = key(
      _checks.pattern(_words.PATTERNS), 'unstructured',
      "the weights that live or die together: 4x1, '2:4', or a word")
  axis: int | list[int] = key(
      _checks.axis, -2, 'the contraction axis of N:M, or neighbouring ones')
  reduce: str = key(
      _checks.one_of(('sum', 'mean', 'max')), 'sum',
      "a unit's score from those of its weights")
  min_sparsity: float = key(
      _checks.fraction, 0., 'the lowest sparsity of a layer')
  max_sparsity: float = key(
      _checks.fraction, 1., 'the highest sparsity of a layer')


def _row(section: Values) -> _words.Row:
  return _words.CRITERIA[next(iter(section['criterion']))]


def _decay(recipe: Values, total_steps: int) -> str:
  del total_steps
  gradual = 'hard' in recipe['flow'] or recipe['initial_sparsity']
  return 'cubic' if gradual else 'one_shot'


def _end(recipe: Values, total_steps: int) -> int:
  start = recipe['start']
  if recipe['decay'] != 'one_shot':
    return start + (total_steps - start) * 7 // 10
  return start if 'hard' in recipe['flow'] else total_steps


def _frequency(recipe: Values, total_steps: int) -> int:
  del total_steps
  gradual = (recipe['end'] - recipe['start']) // 100
  portions = recipe['progressive'] or {'steps': 1, 'every': 1}
  return max(gradual if 'hard' in recipe['flow'] else 1,
             portions['steps'] * (portions['every'] or 1))


@dataclasses.dataclass(frozen=True)
class Section(Shared):
  """The keys of a rule."""
  initial_sparsity: float = key(
      _checks.fraction, 0., 'the fraction pruned at `start`')
  decay: str = key(
      _checks.one_of(_words.DECAYS), _decay,
      'the curve from `initial_sparsity` to `sparsity`',
      'cubic; one_shot if `flow` is not hard and `initial_sparsity` is 0')
  start: int = key(
      _checks.whole(0, '1000'),
      lambda recipe, total_steps: int(_row(recipe).by_gradient),
      'the first step that prunes', '0; 1 if scores need gradients')
  end: int = key(
      _checks.whole(0, '1000'), _end,
      'the step that reaches `sparsity`; masks stay after it',
      '70% of the way from `start`; with one_shot `start`, or the last step '
      'if `flow` is not hard')
  frequency: int = key(
      _checks.whole(1, '100'), _frequency, 'steps from masks to masks',
      '1% of `start` to `end`, 1 if `flow` is not hard, or as `progressive` '
      'needs')
  criterion: dict[str, Any] = key(
      _checks.Word(_words.CRITERIA), 'magnitude',
      'the score of a weight; the lowest are pruned')
  score_dtype: str | None = key(
      _checks.one_of(('float32', 'bfloat16')), None,
      'the dtype of accumulated scores', 'float32')
  scope: str = key(
      _checks.one_of(_words.SCOPES), 'uniform', 'how layers share `sparsity`')
  progressive: Literal[False] | dict[str, int] = key(
      _checks.Options(_words.Progressive), False,
      'true, or options: masks change in portions')
  lock: bool = key(
      _checks.flag, False, 'true keeps the zeros that are there, no more')
  regularizer: Literal[False] | dict[str, Any] | None = key(
      _checks.Word(_words.REGULARIZERS, or_false=True), None,
      'a penalty on units of patterns; a layer has none with false')

  def check(self, where: str, total_steps: int) -> None:
    for word, options in (self.regularizer or {}).items():
      _words.REGULARIZERS[word].options(**options).check(where, total_steps)
    if self.axis != -2 and _checks.nm_sparsity(self.pattern) is None:
      raise ValueError(
          f"{where}: axis is the axis of N:M groups, but pattern "
          f"'{self.pattern}' has no such groups. Leave axis out, or write e.g. "
          "pattern: '2:4'")
    if not self.lock:
      self._check_sparsities(where)
      self._check_steps(where, total_steps)

  def _check_sparsities(self, where: str) -> None:
    sparsity, initial = self.sparsity, self.initial_sparsity
    low, high = self.min_sparsity, self.max_sparsity
    own = _checks.nm_sparsity(self.pattern)
    sides = _checks.sides(self.pattern)
    if sides is not None and own is not None and sparsity != own:
      n, m = sides[1]
      raise ValueError(
          f"{where}: the pattern '{self.pattern}' keeps {n} of every {m}, a "
          f'sparsity of {own}, but sparsity is {sparsity}. Leave sparsity out, '
          'or write another pattern.')
    if not low <= (low if sparsity is None else sparsity) <= high:
      raise ValueError(
          f'{where}: sparsity must be within the bounds of a layer, got '
          f'sparsity={sparsity}, min_sparsity={low} and max_sparsity={high}. '
          'Write e.g. min_sparsity: 0 and max_sparsity: 1')
    if initial and (self.decay == 'one_shot' or initial >= (
        1. if sparsity is None else sparsity)):
      raise ValueError(
          f'{where}: initial_sparsity needs a higher sparsity and a gradual '
          f'decay, got initial_sparsity={initial}, sparsity={sparsity} and '
          f'decay={self.decay}. Write e.g. initial_sparsity: 0')
    if self.decay == 'exponential' and sparsity in (0., 1.):
      raise ValueError(
          f'{where}: exponential decay prunes the same share of the kept '
          f'weights at each step, so it cannot end at sparsity={sparsity}. '
          'Write decay: cubic'
      )

  def _check_steps(self, where: str, total_steps: int) -> None:
    start, end, frequency = self.start, self.end, self.frequency
    word, row = next(iter(self.criterion)), _row(vars(self))
    if start < end and self.progressive:
      steps, every = self.progressive.values()
      if steps * every > frequency:
        raise ValueError(
            f'{where}: progressive masks need steps * every = {steps} * {every}'
            f' updates, but the next masks come after frequency={frequency}. '
            f'Write e.g. frequency: {steps * every}')
    if not start <= end <= total_steps:
      raise ValueError(
          f'{where}: pruning needs start <= end <= total_steps, in steps, got '
          f'start={start}, end={end} and total_steps={total_steps}. Write e.g. '
          f'start: 0 and end: {total_steps * 7 // 10}')
    if start == end and self.decay != 'one_shot':
      raise ValueError(
          f'{where}: {self.decay} decay needs steps between start and end, got '
          f'start={start} and end={end}. Write a later end, or decay: one_shot')
    if row.by_gradient and self.decay == 'one_shot' and (
        start == 0 and frequency > end):
      raise ValueError(
          f'{where}: {word} needs gradients, so it can prune only after the '
          'first update, got start=0. Write e.g. start: 1')
    if self.score_dtype and not row.accumulates:
      raise ValueError(
          f'{where}: score_dtype is the dtype of accumulated scores, but '
          f'{word} accumulates none. Leave score_dtype out, or write '
          'criterion: snip_momentum')


@dataclasses.dataclass(frozen=True)
class Layer(Section):
  """The keys of a layer; a key that is not `Shared` gives it its own rule."""
  names: list[str] = key(_checks.regexes, None, 'its paths', 'must be there')


def _layers(where: str, value: Any) -> list[dict[str, Any]]:
  listed = _checks.layers(where, value)
  return [Layer.read(f'{where}[{i}]', each) for i, each in enumerate(listed)]


@dataclasses.dataclass(frozen=True)
class Top(Level):
  """The keys of the whole recipe, which layers do not have."""
  names: list[str] = key(
      _checks.regexes, '.*kernel', 'regular expressions of paths to prune')
  excluded: list[str] = key(
      _checks.regexes, [], 'regular expressions of paths to leave dense')
  layers: list[dict[str, Any]] = key(
      _layers, [], 'mappings of `names` to the keys that differ there')
  flow: dict[str, Any] = key(
      _checks.Word(_words.FLOWS), 'hard',
      'the part of pruned weights in forward and backward passes')
  method: dict[str, Any] | None = key(
      _checks.Call(_words.METHODS), None,
      'a published method instead of all keys but `names`, `excluded`, '
      '`layers`, `scope` and those from `sparsity` to `max_sparsity`; options '
      'are the arguments of its function in `jaxsparse.methods`')


@dataclasses.dataclass(frozen=True)
class Whole(Top, Section):
  """All keys of a recipe."""


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
  return {**main, **top, 'layers': layers}


def _top(given: Values, exclude: Sequence[str]) -> dict[str, Any]:
  """The keys that a recipe has once."""
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


# What a recipe may have beside a method.
_BESIDE = ('names', 'excluded', 'layers', 'scope', 'method', *Shared.keys())


def _with_method(given: Values, top: Values, total_steps: int
                 ) -> dict[str, Any]:
  """Every key of a recipe whose rule and flow are those of a method."""
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
  """Every key of a layer, or those that are `Shared`."""
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
  if 'criterion' in layer and not _row(layer).accumulates:
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


def _rows(level: type[Level], prefix: str = '') -> Iterator[str]:
  for name, (check, default, text, otherwise) in level.keys().items():
    words = ', '.join(getattr(check, 'words', ()))
    default = 'none' if default in (None, []) else str(default).lower()
    yield (f'| `{prefix}{name}` | {text}{words and ": "}{words} | '
           f'{otherwise or default} |')
    for word, options in getattr(check, 'levels', {}).items():
      yield from _rows(options, f'{prefix}{name}.{word}')


def table() -> str:
  """All keys and options with their defaults, a table in Markdown.

  >>> print(table()[:43])
  | key | what it holds | if it is left out |
  """
  return '\n'.join(['| key | what it holds | if it is left out |',
                    '|---|---|---|', *_rows(Whole)])


__doc__ = f'{__doc__}\n{table()}\n'
