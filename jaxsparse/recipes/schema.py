"""The schema of recipes: every key with its check, default and description.

Each level of a recipe, such as a layer or the options of a flow, is a dataclass
whose fields are the level's keys. Recipes themselves are plain data, and
`completing` writes out their defaults. Tables in `_words` map the words of a
recipe, such as criteria, to functions.

Only `sparsity` is required. Steps count updates. A key with dots in the table
is an option: `flow.sr_ste.decay` is {flow: {sr_ste: {decay: 0.0002}}}.
"""

import dataclasses
from typing import Any, Iterator, Literal, Mapping

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
      'the fraction pruned at the end', 'required; N:M patterns have their own')
  pattern: str = key(
      _checks.pattern(_words.PATTERNS), 'unstructured',
      "the weights pruned together: blocks as 4x1, N:M as '2:4', or a word")
  axis: int | list[int] = key(
      _checks.axis, -2, 'the contraction axis of N:M, or neighbouring ones')
  reduce: str = key(
      _checks.one_of(('sum', 'mean', 'max')), 'sum',
      "the reduction of the scores of a unit's weights to one score")
  min_sparsity: float = key(
      _checks.fraction, 0., 'the lowest sparsity of a layer')
  max_sparsity: float = key(
      _checks.fraction, 1., 'the highest sparsity of a layer')


def row_of(section: Values) -> _words.Row:
  """The meaning of the criterion of a section."""
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
      lambda recipe, total_steps: int(row_of(recipe).by_gradient),
      'the first step that prunes', '0; 1 if scores need gradients')
  end: int = key(
      _checks.whole(0, '1000'), _end,
      'the step that reaches `sparsity`; masks stay after it',
      '70% of the way from `start`; with one_shot `start`, or the last step '
      'if `flow` is not hard')
  frequency: int = key(
      _checks.whole(1, '100'), _frequency,
      'the number of steps from one change of masks to the next',
      '1% of `start` to `end`, 1 if `flow` is not hard, or as `progressive` '
      'needs')
  criterion: dict[str, Any] = key(
      _checks.Word(_words.CRITERIA), 'magnitude',
      'the score; weights with the lowest scores are pruned')
  score_dtype: str | None = key(
      _checks.one_of(('float32', 'bfloat16')), None,
      'the dtype of accumulated scores', 'float32')
  scope: str = key(
      _checks.one_of(_words.SCOPES), 'uniform', 'how layers share `sparsity`')
  progressive: Literal[False] | dict[str, int] = key(
      _checks.Options(_words.Progressive), False,
      'true, or options: every change of masks is made in portions')
  lock: bool = key(
      _checks.flag, False,
      'true only keeps the zeros of the parameters, and prunes no others')
  regularizer: Literal[False] | dict[str, Any] | None = key(
      _checks.Word(_words.REGULARIZERS, or_false=True), None,
      'a penalty on units of patterns; in a layer, false removes it')

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
    word, row = next(iter(self.criterion)), row_of(vars(self))
    if start < end and self.progressive:
      steps, every = self.progressive.values()
      if steps * every > frequency:
        raise ValueError(
            f'{where}: progressive masks need steps * every = {steps} * {every}'
            f' updates, but the next masks come after frequency={frequency}. '
            f'Write e.g. frequency: {steps * every}')
    if self.progressive and self.decay == 'one_shot':
      steps, every = self.progressive.values()
      if start + (steps - 1) * every > total_steps:
        raise ValueError(
            f'{where}: the last portion of progressive masks comes at start + '
            f'(steps - 1) * every = {start} + {steps - 1} * {every}, after '
            f'total_steps={total_steps}, so sparsity would not be reached. '
            'Write an earlier start, or fewer steps of progressive.')
    if not start <= end <= total_steps:
      raise ValueError(
          f'{where}: pruning needs start <= end <= total_steps, in steps, got '
          f'start={start}, end={end} and total_steps={total_steps}. Write e.g. '
          f'start: 0 and end: {total_steps * 7 // 10}')
    if start == end and self.decay != 'one_shot':
      raise ValueError(
          f'{where}: {self.decay} decay needs steps between start and end, got '
          f'start={start} and end={end}. Write a later end, or decay: one_shot')
    # Without gradients at step 0, `frequency` is the first step that prunes.
    late = (self.decay == 'one_shot' and frequency > end
            or self.initial_sparsity and frequency > 1)
    if row.by_gradient and start == 0 and late:
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
  names: list[str] = key(
      _checks.regexes, None, 'regular expressions of its paths', 'required')


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
      _layers, [],
      'layers that differ: each has `names`, and the keys that differ there')
  flow: dict[str, Any] = key(
      _checks.Word(_words.FLOWS), 'hard',
      'the values and gradients of pruned weights during training')
  method: dict[str, Any] | None = key(
      _checks.Call(_words.METHODS), None,
      'a published method in place of all keys but `names`, `excluded`, '
      '`layers`, `scope` and those from `sparsity` to `max_sparsity`; options '
      'are the arguments of its function in `jaxsparse.methods`')


@dataclasses.dataclass(frozen=True)
class Whole(Top, Section):
  """All keys of a recipe."""


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

  >>> print(table()[:27])
  | key | meaning | default |
  """
  return '\n'.join(['| key | meaning | default |',
                    '|---|---|---|', *_rows(Whole)])


__doc__ = f'{__doc__}\n{table()}\n'
