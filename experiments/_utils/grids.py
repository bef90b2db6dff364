"""Lists in a config, of which every combination is run: methods, targets, ...

A target is 'N:M' or a sparsity, such as '90%'.
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
    config: the config, which is changed.
    keys: the keys of its lists of texts.
  """
  for key in keys:
    config[key] = tuple(
        part for value in config[key] for part in str(value).split(','))


def check(config: ml_collections.ConfigDict, examples: Mapping[str, str]):
  """Finds mistakes in the lists of a config, and in its seeds.

  Args:
    config: a config with these lists and `seeds`.
    examples: maps keys to examples for the message.

  Raises:
    ValueError: if a list is empty or has an entry twice, or a seed is not a
      whole number.
  """
  for key, example in {**examples, 'seeds': '0,1,2'}.items():
    values = config[key]
    if not values:
      raise ValueError(f'config.{key} must not be empty. Write e.g. '
                       f'--config.{key}={example}')
    if len(set(values)) != len(values):
      raise ValueError(f'config.{key} must have each entry once, got {values}')
  for seed in config.seeds:
    if not isinstance(seed, int) or seed < 0:
      raise ValueError(f'config.seeds must be whole numbers, got {seed!r}. '
                       'Write e.g. --config.seeds=0,1,2')


def check_targets(targets: Sequence[str], key: str):
  """Finds mistakes in targets.

  Args:
    targets: the targets, texts.
    key: the key of the config that has them.

  Raises:
    ValueError: if a text is not a target.
  """
  for target in targets:
    if not of_target(target):
      raise ValueError(
          f'config.{key} must have targets N:M with N at most M, such as '
          f"'2:4', or sparsities, such as '90%', got {target!r}")


def of_target(target: str) -> dict[str, float]:
  """Returns the keys of a run's config for a target; none for another text.

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
