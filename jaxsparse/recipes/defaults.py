"""What stands where a recipe says nothing, and what contradicts itself."""

from typing import Any, Mapping, Sequence

from jaxsparse.recipes import keys as recipe_keys
from jaxsparse.recipes.keys import OWN
from jaxsparse.recipes.keys import SHARED

# Under pattern lock nothing else has a meaning.
_LOCKED = ('pattern', 'axis', 'reduce', 'lock', 'regularizer')


def complete(recipe: Mapping[str, Any], total_steps: int,
             exclude: Sequence[str] = ()) -> dict[str, Any]:
  """The recipe with every key, checked.

  A layer that gives one of `recipe_keys.OWN` has all keys afterwards; another
  only those that are `SHARED`, where no sparsity means that of all.

  Args:
    recipe: what a user wrote.
    total_steps: the length of training.
    exclude: more regular expressions of what is dense.

  Returns:
    Plain data; completing it again changes nothing.

  Raises:
    ValueError: for an unknown key or a wrong value, wherever it stands.

  >>> whole = complete({'sparsity': 0.9}, 1_000)
  >>> whole['end'], whole['frequency'], whole['criterion']
  (700, 7, {'magnitude': {}})
  """
  if not recipe_keys.is_whole(total_steps) or total_steps < 1:
    raise ValueError(
        'total_steps is how many updates training makes, a whole number from 1 '
        f'up, got {total_steps!r}.')
  total_steps = int(total_steps)
  given = recipe_keys.read('', recipe, [*recipe_keys.CHECKS])
  exclude = recipe_keys.CHECKS['excluded']('exclude', exclude)
  names = given.get('names', ['.*kernel'])
  layers = given.get('layers', [])
  excluded = [*(r for r in exclude if r not in given.get('excluded', [])),
              *given.get('excluded', [])]
  _check_order([*excluded, *(r for layer in layers for r in layer.get(
      'names', [])), *names])
  flow = _flow(given.get('flow', {'hard': {}}), total_steps)
  hard = 'hard' in flow
  own = {i for i, layer in enumerate(layers) if any(k in layer for k in OWN)}
  used = bool(names) or len(own) < len(layers)
  if not used and not layers:
    raise ValueError('names is empty and there are no layers, so nothing would '
                     "be pruned. Write e.g. names: ['.*kernel']")

  mine = {key: given[key] for key in (*SHARED, *OWN) if key in given}
  main = _section('', mine, total_steps, hard, bool(names))
  mine.update({} if main['sparsity'] is None else {
      'sparsity': main['sparsity']})
  whole = [
      _layer(f'layers[{i}]', layer, mine, total_steps, hard, i in own)
      for i, layer in enumerate(layers)]
  return {'names': names, 'excluded': excluded, **main, 'layers': whole,
          'flow': flow}


def _check_order(regexes: list[str]) -> None:
  twice = [r for i, r in enumerate(regexes) if r in regexes[:i]]
  if twice:
    raise ValueError(
        f'The regular expression {twice[0]!r} stands twice in the recipe; what '
        'is excluded wins, then layers in their order, then names, so the '
        'second would do nothing. Remove one of them.')


def _layer(where: str, layer: Mapping[str, Any], main: Mapping[str, Any],
           total_steps: int, hard: bool, own: bool) -> dict[str, Any]:
  """A layer's section, of all keys or of those that are `SHARED`."""
  if not layer.get('names'):
    raise ValueError(f'{where} has no names. Write the regular expressions of '
                     "its parameters, e.g. names: ['head/kernel']")
  rest = {key: value for key, value in layer.items() if key != 'names'}
  foreign = _foreign(layer, own)
  main = {key: value for key, value in main.items() if key not in foreign}
  section = _section(where, {**main, **rest}, total_steps, hard, True)
  if not own:
    section = {key: section[key] for key in SHARED}
    section['sparsity'] = layer.get('sparsity')
  return {'names': layer['names'], **section}


def _foreign(layer: Mapping[str, Any], own: bool) -> set[str]:
  """What of the main section has no meaning beside what a layer gives."""
  if layer.get('lock'):
    return {*SHARED, *OWN} - {*_LOCKED}
  foreign = set()
  if recipe_keys.nm_sparsity(layer.get('pattern', '')) is not None:
    foreign.add('sparsity')
  elif 'pattern' in layer:
    foreign.add('axis')
  if 'snip_momentum' not in layer.get('criterion', ('snip_momentum',)):
    foreign.add('score_dtype')
  if not own or layer.get('decay') == 'one_shot':
    foreign.add('initial_sparsity')
  return foreign


def _section(where: str, given: Mapping[str, Any], total_steps: int,
             hard: bool, required: bool) -> dict[str, Any]:
  """All of `SHARED` and `OWN`, from those that are given."""
  where = where or 'the recipe'
  pattern = given.get('pattern', 'unstructured')
  section = dict.fromkeys((*SHARED, *OWN)) | dict(
      pattern=pattern, axis=given.get('axis', -2),
      reduce=given.get('reduce', 'sum'),
      lock=given.get('lock', False),
      regularizer=_regularizer(where, given.get('regularizer')))
  if section['axis'] != -2 and recipe_keys.nm_sparsity(pattern) is None:
    raise ValueError(
        f"{where}: axis says where groups of N:M lie, and pattern '{pattern}' "
        "has none. Leave it out, or write e.g. pattern: '2:4'")
  if section['lock']:
    other = [key for key in given if key not in _LOCKED]
    if other:
      raise ValueError(
          f'{where}: lock keeps the zeros that are there, so {other} have no '
          'meaning. Leave them out, or write lock: false')
    return section

  criterion = given.get('criterion', {'magnitude': {}})
  decay = given.get('decay', 'cubic' if hard or given.get(
      'initial_sparsity') else 'one_shot')
  once = decay == 'one_shot'
  progressive = given.get('progressive', False)
  start = given.get('start', 0 if 'magnitude' in criterion else 1)
  end = given.get('end', start + (total_steps - start) * 7 // 10 if not once
                  else start if hard else total_steps)
  section |= dict(
      sparsity=_sparsity(where, given, required),
      initial_sparsity=given.get('initial_sparsity', 0.), start=start, end=end,
      frequency=given.get('frequency', max(
          (end - start) // 100 if hard else 1, _all_portions(progressive))),
      decay=decay, criterion=criterion, score_dtype=given.get('score_dtype'),
      scope=given.get('scope', 'uniform'),
      min_sparsity=given.get('min_sparsity', 0.),
      max_sparsity=given.get('max_sparsity', 1.),
      progressive=progressive)
  if section['progressive']:
    section['progressive'] = _portions(where, section, total_steps)
  _check_steps(where, section, total_steps)
  _check_sparsities(where, section)
  if section['score_dtype'] and 'snip_momentum' not in criterion:
    raise ValueError(
        f'{where}: score_dtype is that of accumulated scores, and '
        f'{[*criterion][0]} accumulates none. Leave it out, or write '
        'criterion: snip_momentum')
  return section


def _sparsity(where: str, given: Mapping[str, Any], required: bool
              ) -> float | None:
  sparsity, pattern = given.get('sparsity'), given.get('pattern', '')
  own = recipe_keys.nm_sparsity(pattern)
  if own is not None and sparsity not in (None, own):
    n, m = recipe_keys.sides(pattern)[1]
    raise ValueError(
        f"{where}: the pattern '{pattern}' keeps {n} of every {m}, a sparsity "
        f'of {own}, but sparsity is {sparsity}. Leave sparsity out, or write '
        'another pattern.')
  if own is None and sparsity is None and required:
    raise ValueError(f'{where} has no sparsity, the fraction pruned at the '
                     'end. Write e.g. sparsity: 0.9')
  return sparsity if own is None else own


def _all_portions(progressive: Mapping[str, Any] | bool) -> int:
  """How many updates the portions of one mask take at least."""
  return progressive['steps'] * (progressive['every'] or 1) if (
      progressive) else 1


def _portions(where: str, section: Mapping[str, Any], total_steps: int
              ) -> dict[str, int]:
  steps, every = (section['progressive'][key] for key in ('steps', 'every'))
  several = section['start'] < section['end']
  room = section['frequency'] if several else total_steps // 25
  every = max(room // steps, 1) if every is None else every
  if several and steps * every > section['frequency']:
    raise ValueError(
        f'{where}: progressive masks need steps * every = {steps} * {every} '
        f'updates, but new ones are made after frequency={room}. Write e.g. '
        f'frequency: {steps * every}')
  return {'steps': steps, 'every': every}


def _check_steps(where: str, section: Mapping[str, Any], total_steps: int
                 ) -> None:
  start, end, frequency, decay = (
      section[key] for key in ('start', 'end', 'frequency', 'decay'))
  if not start <= end <= total_steps:
    raise ValueError(
        f'{where}: pruning needs start <= end <= total_steps, in steps, got '
        f'start={start}, end={end} and total_steps={total_steps}. Write e.g. '
        f'start: 0 and end: {total_steps * 7 // 10}')
  if start == end and decay != 'one_shot':
    raise ValueError(
        f'{where}: {decay} decay has no step between start={start} and '
        f'end={end}. Write a later end, or decay: one_shot')
  if ('magnitude' not in section['criterion'] and decay == 'one_shot'
      and start == 0 and frequency > end):
    raise ValueError(
        f'{where}: {[*section["criterion"]][0]} needs gradients, which are '
        'there after the first update, so nothing would be pruned at step 0. '
        'Write e.g. start: 1')


def _check_sparsities(where: str, section: Mapping[str, Any]) -> None:
  sparsity, initial, low, high = (section[key] for key in (
      'sparsity', 'initial_sparsity', 'min_sparsity', 'max_sparsity'))
  if not low <= (low if sparsity is None else sparsity) <= high:
    raise ValueError(
        f'{where}: sparsity={sparsity} lies outside of '
        f'min_sparsity={low} and max_sparsity={high}, the bounds of a layer.')
  if initial and (section['decay'] == 'one_shot' or initial >= (
      1. if sparsity is None else sparsity)):
    raise ValueError(
        f'{where}: initial_sparsity={initial} is where a decay to a higher '
        f'sparsity starts, got sparsity={sparsity} and '
        f'decay={section["decay"]}. Write e.g. initial_sparsity: 0')
  if section['decay'] == 'exponential' and sparsity in (0., 1.):
    raise ValueError(
        f'{where}: exponential decay prunes the same share of what is left '
        f'each step and cannot end at sparsity={sparsity}. Write decay: cubic')


def _regularizer(where: str, given: Mapping[str, Any] | bool | None
                 ) -> Mapping[str, Any] | bool | None:
  if not given:  # A layer's false is not the null that inherits.
    return given
  options = given['group_lasso']
  if options['alpha'] is None:
    raise ValueError(f'{where}: group_lasso needs its strength. Write e.g. '
                     'regularizer: {group_lasso: {alpha: 0.001}}')
  if (options['form'] == 'proximal') != (options['learning_rate'] is not None):
    raise ValueError(
        f'{where}: the proximal form of group_lasso needs the learning_rate, '
        f'the gradient form has no use for it; got {options}. Write e.g. '
        '{alpha: 0.001, form: proximal, learning_rate: 0.001}')
  return given


def _flow(flow: Mapping[str, Any], total_steps: int) -> Mapping[str, Any]:
  if 'mdgf' not in flow:
    return flow
  options = dict(flow['mdgf'])
  for key, default in (('start', total_steps // 10),
                       ('end', total_steps * 7 // 10)):
    options[key] = default if options[key] is None else options[key]
  if not options['start'] < options['end'] <= total_steps:
    raise ValueError(
        'flow.mdgf fades between start < end <= total_steps, got '
        f'start={options["start"]}, end={options["end"]} and '
        f'total_steps={total_steps}.')
  return {'mdgf': options}
