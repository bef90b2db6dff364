"""Lists in a config whose every combination is computed: methods, targets, ...

A target is 'N:M' or the share pruned, such as '90%'.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import re

import ml_collections

_N_M = re.compile(r'([1-9]\d*):([1-9]\d*)')
_SHARE = re.compile(r'(\d+(?:\.\d+)?)%')


def split(config: ml_collections.ConfigDict, keys: Sequence[str]):
  """Makes tuples of the lists in a config.

  Flags cannot tell 'ste,sr_ste' from the name of one method; here it is two.

  Args:
    config: is changed.
    keys: of its lists of texts.
  """
  for key in keys:
    config[key] = tuple(
        part for value in config[key] for part in str(value).split(','))


def check(config: ml_collections.ConfigDict, examples: Mapping[str, str]):
  """Finds mistakes in the lists of a config, and in its seeds.

  Args:
    config: with these lists and `seeds`.
    examples: by key what to write, for the message.

  Raises:
    ValueError: if a list is empty or names something twice, or a seed is no
      whole number.
  """
  for key, example in {**examples, 'seeds': '0,1,2'}.items():
    values = config[key]
    if not values:
      raise ValueError(f'config.{key} is empty; give some, such as '
                       f'--config.{key}={example}')
    if len(set(values)) != len(values):
      raise ValueError(f'config.{key} names something twice: {values}')
  for seed in config.seeds:
    if not isinstance(seed, int) or seed < 0:
      raise ValueError(f'config.seeds has {seed!r}, expected a whole number')


def check_targets(targets: Sequence[str], key: str):
  """Finds mistakes in targets.

  Args:
    targets: the texts.
    key: of the config, where they stand.

  Raises:
    ValueError: if one is no target.
  """
  for target in targets:
    if not of_target(target):
      raise ValueError(
          f'config.{key} has {target!r}, expected N:M with N at most M, such '
          'as \'2:4\', or the share pruned, such as \'90%\'')


def of_target(target: str) -> dict[str, float]:
  """Returns what a target says, as the keys of a run's config have it.

  Nothing, if it is none.

  >>> of_target('2:4'), of_target('90%'), of_target('4:2')
  ({'n': 2, 'm': 4}, {'sparsity': 0.9}, {})
  """
  if match := _N_M.fullmatch(target):
    n, m = map(int, match.groups())
    return dict(n=n, m=m) if n <= m else {}
  if match := _SHARE.fullmatch(target):
    share = float(match[1]) / 100
    return dict(sparsity=share) if share < 1 else {}
  return {}


def folder(target: str) -> str:
  """Returns the name of a target's folder.

  >>> folder('2:4'), folder('90%')
  ('2_4', '90')
  """
  return target.replace(':', '_').replace('%', '')
