"""Translates Neural Compressor's configuration of pruning into a recipe.

For releases 1.x, the supported sections are
`pruning.approach.weight_compression` (which counts epochs) and
`weight_compression_pytorch` (which counts steps). Each has a list of `pruners`;
a pruner is a mapping or a `!Pruner`. For releases 2.x, the keys are those of
`WeightPruningConfig`, see `_weight_pruning_config`.

| there, in 1.x | here |
|---|---|
| `target_sparsity`, `initial_sparsity` | `sparsity`, `initial_sparsity` |
| `start_step`, `end_step`, `start_epoch`, `end_epoch` | `start`, `end` |
| `update_frequency_on_step`, `update_frequency` (epochs) | `frequency` |
| `prune_domain`: local, global | `scope`: uniform, global |
| `sparsity_decay_type`: exp, cos, cube, linear | `decay` |
| `max_sparsity_ratio_per_layer` | `max_sparsity` |
| `min_sparsity_ratio_per_layer` | `min_sparsity` |
| `pattern`: '4x1', 'tile_pattern_4x1', 'channelx1' | `pattern` |
| `pattern`: 'N:M', **N of M pruned** | `pattern`: '(M-N):M', kept |
| `names`, `excluded_names`, `extra_excluded_names` | `names`, `excluded` |
| `prune_type`: magnitude, snip, ... | `criterion`, `progressive`, `lock` |
| `reg_type`, `parameters`: `reg_coeff`, `alpha` | `regularizer` |
| `reduce_type` | `reduce` |
| `prune_layer_type`, `method` | nothing: `names` choose parameters |

N:M patterns have their own sparsity, whatever sparsity a pruner inherits. Older
files write `not_to_prune_names` for `excluded_names` and `exclude_names` for
`extra_excluded_names`. Each pruner has its own scope, as in Neural Compressor;
if two pruners name one parameter, the first one prunes it. Masks are made at
the same steps as there, but the final sparsity is always reached at `end_step`.

A message reports each key that has no meaning here. A misspelt key is an error.

References:
  Intel, `Neural Compressor <https://github.com/intel/neural-compressor>`_
"""

import re
from typing import Any, Mapping, NamedTuple, Sequence

from jaxsparse._utils.tables import brief
from jaxsparse.recipes import _checks
from jaxsparse.recipes import _weight_pruning_config
from jaxsparse.recipes import schema

_SECTIONS = ('weight_compression', 'weight_compression_pytorch')


class _Defaults(NamedTuple):
  """The defaults of a kind of file."""
  by_steps: bool
  sparsity: float = .97
  reduce: str = 'sum'


_ALIASES = {'not_to_prune_names': 'excluded_names',
            'exclude_names': 'extra_excluded_names'}
_DECAYS = {'exp': 'exponential', 'cos': 'cosine', 'cube': 'cube',
           'linear': 'linear'}
_DOMAINS = {'local': 'uniform', 'global': 'global'}
_CRITERIA = {
    'magnitude': 'magnitude', 'basic_magnitude': 'magnitude', 'snip': 'snip',
    'gradient': 'gradient', 'group_lasso': 'magnitude',
    # As in the released code; the documented formula swaps the two numbers.
    'snip_momentum': {'snip_momentum': {'decay': .9, 'scale': 1.}}}
_TYPES = (*_CRITERIA, *(f'{name}_progressive' for name in (
    'magnitude', 'snip', 'snip_momentum')), 'pattern_lock',
    'gradient_sensitivity')
# Keys that are checked like these keys of our recipes.
_LIKE = {
    'target_sparsity': 'sparsity', 'initial_sparsity': 'initial_sparsity',
    'max_sparsity_ratio_per_layer': 'max_sparsity',
    'min_sparsity_ratio_per_layer': 'min_sparsity', 'reduce_type': 'reduce',
    'start_step': 'start', 'end_step': 'end', 'start_epoch': 'start',
    'end_epoch': 'end', 'update_frequency_on_step': 'frequency',
    'names': 'names', 'excluded_names': 'excluded',
    'extra_excluded_names': 'excluded'}
# The checks of all keys, whether or not they have a meaning here.
_CHECKS = {key: schema.Whole.keys()[ours].check
           for key, ours in _LIKE.items()} | {
    'prune_domain': _checks.one_of(_DOMAINS),
    'sparsity_decay_type': _checks.one_of(_DECAYS),
    'prune_type': _checks.one_of(_TYPES),
    'update_frequency': _checks.number, 'pattern': _checks.text,
    'parameters': _checks.mapping, 'reg_type': _checks.text}
_NOTHING = ('prune_layer_type', 'method')
_KEYS = (*_CHECKS, *_NOTHING, *_ALIASES)
# The keys that have a meaning, or their own message, under pattern lock.
_LOCKED = ('names', 'excluded_names', 'extra_excluded_names', 'pattern',
           'prune_type', 'parameters', 'reg_type', 'reduce_type', *_NOTHING)
# The keys that have no meaning for N:M.
_NOT_OF_NM = ('prune_domain', 'max_sparsity_ratio_per_layer',
              'min_sparsity_ratio_per_layer', 'reduce_type')
_PARAMETERS = (
    'reg_type', 'reg_coeff', 'coeff', 'alpha', 'group_size', 'target',
    'normalize', 'stride', 'transpose', 'index', 'importance_inputs',
    'importance_metric')


def is_one(config: Mapping[str, Any]) -> bool:
  """Whether a mapping is a configuration of Neural Compressor.

  >>> is_one({'target_sparsity': 0.9}), is_one({'sparsity': 0.9})
  (True, False)
  """
  return 'pruning' in config or _weight_pruning_config.is_one(
      config, schema.Whole.keys())


def translate(config: Mapping[str, Any], steps_per_epoch: int | None = None
              ) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Translates a configuration of Neural Compressor into a recipe.

  Args:
    config: the content of the file, with the key `pruning` or the keys of
      `WeightPruningConfig`.
    steps_per_epoch: the number of updates in an epoch, for files that count
      epochs.

  Returns:
    The recipe, and messages about keys that have no meaning, or another one,
    here.

  Raises:
    ValueError: for a misspelt key, with the nearest known one; for a key or
      value that cannot be translated.

  >>> recipe, messages = translate({'pruning': {'approach': {
  ...     'weight_compression_pytorch': {'end_step': 100, 'pruners': [
  ...         {'pattern': '3:4', 'target_sparsity': 0.75}]}}}})
  >>> recipe['pattern'], messages[0][:31]
  ('1:4', "pruners[0].pattern: '3:4' has 3")
  """
  if 'pruning' not in config:
    return _translate_2(config)
  messages = [f'{key}: has no meaning here.' for key in config
              if key != 'pruning']
  where = 'pruning'
  _checks.check_keys(where, config[where], ('train', 'approach'))
  messages += ['pruning.train: has no meaning here; the training loop is yours.'
               ] * ('train' in config[where])
  approach = config[where].get('approach')
  _checks.check_keys('pruning.approach', approach, _SECTIONS)
  if len(approach) != 1:
    raise ValueError('pruning.approach must have one section, one of '
                     f'{_SECTIONS}, got {[*approach]}. Write each section to '
                     'a file of its own.')
  (name, section), = approach.items()
  where = f'pruning.approach.{name}'
  _checks.check_keys(where, section, (*_KEYS, 'pruners'))
  pruners = _pruners(f'{where}.pruners', section.get('pruners'))
  shared = _given(
      where, {key: section[key] for key in section if key != 'pruners'})
  defaults = _Defaults(by_steps=name.endswith('pytorch'))
  parts = []
  for i, pruner in enumerate(pruners):
    _checks.check_keys(f'pruners[{i}]', pruner, _KEYS)
    parts.append(_section(
        f'pruners[{i}]', shared, _given(f'pruners[{i}]', pruner), defaults,
        steps_per_epoch, messages))
  if shared.get('excluded_names'):
    messages.append(
        f"{where}.excluded_names: {shared['excluded_names']} was searched in "
        'module names of PyTorch there, and is searched in paths here; a name '
        'that is found nowhere excludes nothing.')
  return _joined(parts), tuple(dict.fromkeys(messages))


def _translate_2(config: Mapping[str, Any]
                 ) -> tuple[dict[str, Any], tuple[str, ...]]:
  """`translate` for a `WeightPruningConfig`."""
  two = _weight_pruning_config
  where = 'pruning_configs'
  shared, messages = two.renamed('', {
      key: value for key, value in config.items() if key != where}, _CHECKS)
  parts = []
  for i, local in enumerate(_pruners(where, config.get(where))):
    mine, more = two.renamed(f'{where}[{i}]', local, _CHECKS)
    messages += more
    # Local exclusions replace the global ones.
    around = {key: value for key, value in shared.items()
              if key not in mine or key != 'excluded_names'}
    told: list[str] = []
    parts.append(_section(
        f'{where}[{i}]' if config.get(where) else 'the recipe', around, mine,
        _Defaults(by_steps=True, sparsity=.9, reduce='mean'), None, told))
    messages += map(two.in_its_words, told)
  return _joined(parts), tuple(dict.fromkeys([*messages, two.LAST_LAYER]))


def _pruners(where: str, value: Any) -> list[Any]:
  """The sections of pruners, or one empty section if there are none."""
  if value is None:
    return [{}]
  return [*_checks.layers(where, value)] or [{}]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
  return parts[0] if len(parts) == 1 else {'names': [], 'layers': parts}


def _given(where: str, section: Mapping[str, Any]) -> dict[str, Any]:
  """A section with one name for each key, checked, without empty values."""
  given = {_ALIASES.get(key, key): value for key, value in section.items()
           if value is not None and not (
               isinstance(value, (list, tuple, Mapping)) and not value)}
  return {key: _CHECKS[key](f'{where}.{key}', value)
          if key in _CHECKS else value for key, value in given.items()}


def _section(where: str, shared: Mapping[str, Any], mine: Mapping[str, Any],
             defaults: _Defaults, steps_per_epoch: int | None,
             messages: list[str]) -> dict[str, Any]:
  """One pruner's part of the recipe, with Neural Compressor's defaults."""
  pruner, by_steps = {**shared, **mine}, defaults.by_steps
  but = [name for key in ('extra_excluded_names', 'excluded_names')
         for name in dict.fromkeys([*shared.get(key, []), *mine.get(key, [])])]
  for key in _NOTHING:
    if key in pruner:
      messages.append(
          f'{key}: has no meaning here; names choose parameters. Write '
          "'.*kernel' for those of dense and convolutional layers.")
  kind = pruner.get(
      'prune_type', 'snip_momentum' if by_steps else 'basic_magnitude')
  recipe: dict[str, Any] = {'names': _names(
      f'{where}.names', pruner.get('names', ['.*']), 'kernel', messages, but)}
  pattern = str(pruner.get('pattern', '4x1' if by_steps else '1x1'))
  recipe['pattern'] = _pattern(f'{where}.pattern', pattern, messages)
  recipe.update(_regularizer(where, pruner, kind, messages))
  if kind == 'pattern_lock':
    _leave(where, pruner, {*pruner} - {*_LOCKED},
           'because pattern_lock keeps the present zeros', messages)
    return {**recipe, 'lock': True,
            'reduce': pruner.get('reduce_type', defaults.reduce)}

  nm_sparsity = _checks.nm_sparsity(recipe['pattern'])
  if nm_sparsity is not None:
    foreign = {*_NOT_OF_NM}
    if 'pattern' in mine and shared.get('target_sparsity') != nm_sparsity:
      foreign |= {'target_sparsity'} - {*mine}
    pruner = _leave(where, pruner, foreign,
                    'because N:M has its own sparsity', messages)
  recipe |= _steps(where, pruner, by_steps, steps_per_epoch, messages)
  base = kind.removesuffix('_progressive')
  at_0 = recipe['end'] == 0 or recipe['start'] == 0 and (
      recipe['frequency'] > 1 and pruner.get('initial_sparsity'))
  if at_0 and _CRITERIA[base] != 'magnitude':
    messages.append(f'{where}: {base} needs gradients, so it prunes at step 1, '
                    'not at step 0.')
    recipe |= {'start': 1, 'end': max(recipe['end'], 1)}
  recipe |= dict(
      criterion=_CRITERIA[base], progressive=base != kind,
      scope=_DOMAINS[pruner.get('prune_domain', 'global')],
      sparsity=pruner.get('target_sparsity'),
      initial_sparsity=pruner.get('initial_sparsity', 0.),
      min_sparsity=pruner.get('min_sparsity_ratio_per_layer', 0.),
      max_sparsity=pruner.get('max_sparsity_ratio_per_layer', .98),
      reduce=pruner.get('reduce_type', defaults.reduce))
  if nm_sparsity is not None:
    return {**recipe, 'max_sparsity': 1.}
  sparsity, most = recipe['sparsity'], recipe['max_sparsity']
  sparsity = defaults.sparsity if sparsity is None else sparsity
  if sparsity > most:
    messages.append(f'{where}: target_sparsity {sparsity} is above '
                    f'max_sparsity_ratio_per_layer, so {most} is used.')
  return {**recipe, 'sparsity': min(sparsity, most)}


def _leave(where: str, pruner: dict[str, Any], keys: set[str], why: str,
           messages: list[str]) -> dict[str, Any]:
  """The pruner without some keys, with a message for each of them."""
  messages.extend(f'{where}.{key}: has no meaning here, {why}.'
                  for key in pruner if key in keys)
  return {key: value for key, value in pruner.items() if key not in keys}


def _pattern(where: str, pattern: str, messages: list[str]) -> str:
  short = pattern.split('_')[-1]
  kind, (n, m) = _checks.sides(short) or ('', (0, 0))
  if kind == ':':
    if n >= m:
      raise ValueError(f'{where}: the pattern {pattern!r} must prune fewer '
                       f'than {m} of {m} weights, got {n}. Write e.g. pattern: '
                       "'2:4'")
    messages.append(
        f'{where}: {short!r} has {n} of every {m} weights pruned there; here '
        f"it is '{m - n}:{m}', with {m - n} of every {m} kept.")
    return f'{m - n}:{m}'
  return 'unstructured' if short == '1x1' else short


def _steps(where: str, pruner: Mapping[str, Any], by_steps: bool,
           steps_per_epoch: int | None, messages: list[str]) -> dict[str, Any]:
  """`start`, `end`, `frequency` and `decay`."""
  counts = {True: ('start_step', 'end_step', 'update_frequency_on_step'),
            False: ('start_epoch', 'end_epoch', 'update_frequency')}
  given = {key for keys in counts.values() for key in keys[:2] if key in pruner}
  if given and not given & {*counts[by_steps]}:
    by_steps = not by_steps
  for key in counts[not by_steps]:
    if key in pruner:
      messages.append(f'{where}.{key}: has no meaning here, because the file '
                      f'counts {"steps" if by_steps else "epochs"}.')
  start, end, frequency = (
      pruner.get(key, default) for key, default in zip(
          counts[by_steps], (0, 0, 1) if by_steps else (0, 4, 1)))
  if not by_steps:
    if steps_per_epoch is None:
      raise ValueError(
          f'{where} counts epochs ({start} to {end}), but recipes count steps. '
          'Write e.g. from_recipe(..., steps_per_epoch=len(dataset) // batch).')
    start, end = start * steps_per_epoch, end * steps_per_epoch
    frequency = max(round(frequency * steps_per_epoch), 1)
  decay = _DECAYS[pruner.get(
      'sparsity_decay_type', 'exp' if by_steps else 'linear')]
  return dict(start=start, end=end, frequency=frequency,
              decay='one_shot' if start == end else decay)


def _names(where: str, raw: list[str] | str, leaf: str, messages: list[str],
           but: Sequence[str] = ()) -> list[str]:
  """PyTorch's module names as regular expressions for whole paths."""
  raw = [raw] if isinstance(raw, str) else raw
  without = '|'.join(_regex(regex, '') for regex in but)
  found = [(f'(?!(?:{without})$)' if without else '') + _regex(regex, leaf)
           for regex in raw]
  if raw and raw != ['.*']:
    messages.append(
        f'{where}: {raw} was searched in module names of PyTorch there; here '
        f"{found} must match whole paths, whose parts are joined with '/'. "
        'Check that the layers have the same names.')
  return found


# An escape, a class of characters or one character.
_TOKEN = re.compile(r'\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.', re.DOTALL)


def _regex(raw: str, leaf: str) -> str:
  """Module names as a regular expression for parameters named `leaf`.

  >>> _regex('layer1.0.conv1.weight', 'kernel'), _regex('layer1.*', 'kernel')
  ('.*layer1.0.conv1/kernel', '.*layer1.*kernel')
  """
  if flags := re.match(r'\(\?([a-zA-Z]+)\)', raw):
    return f'(?{flags[1]}:{_regex(raw[flags.end():], leaf)})'
  found = [_alternative(text, leaf) for text in _alternatives(raw)]
  return found[0] if len(found) == 1 else f'(?:{"|".join(found)})'


def _alternatives(raw: str) -> list[str]:
  """The parts of an expression between those `|` that are in no group.

  >>> _alternatives(r'a|(b|c)[|]')
  ['a', '(b|c)[|]']
  """
  parts, depth = [''], 0
  for token in _TOKEN.findall(raw):
    depth += (token == '(') - (token == ')')
    if token == '|' and not depth:
      parts.append('')
    else:
      parts[-1] += token
  return parts


def _alternative(raw: str, leaf: str) -> str:
  """One module name, without alternatives outside of groups."""
  # Names may be written as paths of this library, too.
  text = raw.replace('\\.', '/').removesuffix(f'.*{leaf}')
  begin = '(?:params/)?' if text.startswith('^') else '.*'
  body = re.sub(r'[./](?:weight|kernel)\$?$', '', text.removeprefix('^'))
  whole = body != text.removeprefix('^')
  end = '/kernel' if whole else f'.*{leaf}'
  if body.endswith('$'):  # The end of a module's name.
    body, end = body[:-1], f'/{leaf or ".*"}'
  plain = _TOKEN.sub(
      lambda token: token[0] if len(token[0]) == 1 else '_', body)
  if re.search(r'[\^$]|[./]weight[)|]', plain):
    raise ValueError(
        f'{raw!r} has ^, $ or .weight inside of an expression, which cannot be '
        'translated for whole paths. Write alternatives without a group, e.g. '
        "'^conv1|classifier$'.")
  if begin == '.*':
    body = body.removeprefix('.*')
  if end.startswith('.*'):
    body = body.removesuffix('.*')
  if not body:
    return end if end.startswith('.*') else begin + end
  return begin + body + end


def _regularizer(where: str, pruner: Mapping[str, Any], kind: str,
                 messages: list[str]) -> dict[str, Any]:
  parameters = pruner.get('parameters', {})
  _checks.check_keys(f'{where}.parameters', parameters, _PARAMETERS)
  if kind == 'gradient_sensitivity':
    raise ValueError(
        f'{where}: gradient_sensitivity removes whole heads and neurons, '
        'which recipes do not support. Remove this pruner from the file, and '
        'write e.g. importance = jaxsparse.units.sensitivity(loss_fn, params, '
        'batches, ties), the rule jaxsparse.units.prune_units(ties, ...), and '
        'then jaxsparse.slim.')
  lasso = pruner.get('reg_type', parameters.get('reg_type', kind))
  if lasso != 'group_lasso':
    if 'reg_type' in {**pruner, **parameters}:
      _checks.one_of(('group_lasso',))(f'{where}.reg_type', lasso)
    messages.extend(
        f'{where}.parameters.{key}: has no meaning here, with prune_type '
        f'{kind} and no reg_type.' for key in parameters)
    return {}
  strengths = ('reg_coeff', 'coeff', 'alpha')
  alphas = [_checks.number(f'{where}.parameters.{key}', parameters[key])
            for key in strengths if key in parameters]
  if len(alphas) != 1:
    raise ValueError(
        f'{where}: group_lasso needs its strength, under one of its names, got '
        f'{brief(parameters)}. '
        'Write e.g. parameters: {reg_coeff: 0.001}')
  messages.extend(
      f'{where}.parameters.{key}: has no meaning here; the groups are the '
      'units of the pattern.' for key in parameters
      if key not in (*strengths, 'reg_type'))
  return {'regularizer': {'group_lasso': {'alpha': alphas[0]}}}
