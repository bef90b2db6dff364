"""Translates keys of Neural Compressor's `WeightPruningConfig` to names of 1.x.

Releases 2.x have no configuration file. A configuration consists of keyword
arguments; `pruning_configs` is a list of mappings, each of which overrides them
for its `op_names`. Here the configuration is a mapping of these arguments, or a
YAML or JSON file of it:

| there | here |
|---|---|
| `target_sparsity` (0.9) | `sparsity` |
| `start_step`, `end_step` (0), `pruning_frequency` (1) | `start`, `end`, `frequency` |
| `pruning_scope` (global), `sparsity_decay_type` (exp) | `scope`, `decay` |
| `min_sparsity_ratio_per_op`, `max_sparsity_ratio_per_op` (0.98) | `min_sparsity`, `max_sparsity` |
| `pattern` (4x1), 'N:M' with **N of M pruned** | `pattern`: '(M-N):M', kept |
| `op_names`, `excluded_op_names` | `names`, `excluded` |
| `pruning_type` (snip_momentum), `progressive` | `criterion`, `progressive`, `lock` |
| `criterion_reduce_type` (mean) | `reduce` |
| `reg_type`, `parameters`: `reg_coeff` | `regularizer` |

Older configurations write `prune_type` for `pruning_type`. All other keys of
Neural Compressor have no meaning here, and a message reports each of them.

References:
  Intel, `Neural Compressor <https://github.com/intel/neural-compressor>`_
"""  # noqa: E501

import re
from typing import Any, Callable, Collection, Mapping

from jaxsparse.recipes import _checks

LAST_LAYER = (
    'The last linear layer stayed dense there by default. Here write '
    'from_recipe(..., exclude=jaxsparse.graph.last_kernels(apply, params, x)).')
# The names of keys in 1.x, which may be the same.
_NAMES = {
    'target_sparsity': 'target_sparsity', 'pattern': 'pattern',
    'pruning_type': 'prune_type', 'prune_type': 'prune_type',
    'op_names': 'names', 'excluded_op_names': 'excluded_names',
    'start_step': 'start_step', 'end_step': 'end_step',
    'pruning_scope': 'prune_domain',
    'pruning_frequency': 'update_frequency_on_step',
    'min_sparsity_ratio_per_op': 'min_sparsity_ratio_per_layer',
    'max_sparsity_ratio_per_op': 'max_sparsity_ratio_per_layer',
    'sparsity_decay_type': 'sparsity_decay_type',
    'criterion_reduce_type': 'reduce_type',
    'reg_type': 'reg_type', 'parameters': 'parameters'}
_NOTHING = {
    'pruning_op_types': "op_names choose parameters; write '.*kernel' for "
                        'those of dense and convolutional layers',
    'backend': 'there is one',
    'low_memory_usage': 'masks and scores are computed where they are read',
    'criterion_type': 'pruning_type names the criterion',
    'resume_from_pruned_checkpoint': 'a restored optimizer state has its masks',
    'lock_init_sparsity': 'a weight that was zero may come back; for a lock '
                          'write pruning_type: pattern_lock'}
_KEYS = (*_NAMES, *_NOTHING, 'progressive', 'reg_coeff')
_PROGRESSIVE = ('magnitude', 'snip', 'snip_momentum')


def is_one(config: Mapping[str, Any], ours: Collection[str]) -> bool:
  """Whether a mapping has keys of 2.x, and no key that only `ours` has."""
  both = {*_KEYS, 'pruning_configs'}
  return any(key in both and key not in ours for key in config) and not any(
      key in ours and key not in both for key in config)


def renamed(where: str, section: Any,
            checks: Mapping[str, Callable[[str, Any], Any]]
            ) -> tuple[dict[str, Any], list[str]]:
  """A section with the names of 1.x, checked, without null or empty values.

  Args:
    where: the place of the section, for messages.
    section: the given section.
    checks: the checks of values, by the names of 1.x.

  Returns:
    The section, and messages about keys that have no meaning here.

  Raises:
    ValueError: for an unknown key or a wrong value.
  """
  _checks.check_keys(where or 'the recipe', section, (
      *_KEYS, *['pruning_configs'] * (not where)))
  prefix = f'{where}.' if where else ''
  given = {key: value for key, value in section.items()
           if value is not None and not (
               isinstance(value, (list, tuple, Mapping)) and not value)}
  messages = [f'{prefix}{key}: has no meaning here; {_NOTHING[key]}.'
              for key in given if key in _NOTHING]
  if {'pruning_type', 'prune_type'} <= {*given}:
    raise ValueError(
        f'{prefix}pruning_type and {prefix}prune_type are two names of one '
        'key, got both. Leave prune_type out.')
  found = {_NAMES[key]: checks[_NAMES[key]](f'{prefix}{key}', value)
           for key, value in given.items() if key in _NAMES}
  if 'reg_coeff' in given:
    found['parameters'] = {
        'reg_coeff': _checks.number(f'{prefix}reg_coeff', given['reg_coeff']),
        **found.get('parameters', {})}
  if 'progressive' in given and _checks.flag(
      f'{prefix}progressive', given['progressive']):
    kind = found.get('prune_type', 'snip_momentum')
    if kind.removesuffix('_progressive') in _PROGRESSIVE:
      found['prune_type'] = kind.removesuffix('_progressive') + '_progressive'
    else:
      messages.append(f'{prefix}progressive: has no meaning here, with '
                      f'pruning_type {kind}.')
  return found, messages


def in_its_words(message: str) -> str:
  """A message about keys of 1.x, with the names that they have in 2.x.

  >>> in_its_words('prune_domain: has no meaning here.')
  'pruning_scope: has no meaning here.'
  """
  return re.sub(
      r'((?:^|\.)names:)|\b(\w+_\w+)\b', lambda match: (
          match[1].replace('names', 'op_names') if match[1] else
          _BACK.get(match[2], match[2])), message.removeprefix('the recipe.'))


_BACK = {old: new for new, old in _NAMES.items()
         if old != new and new != 'prune_type'}
_BACK['prune_type'] = 'pruning_type'
