"""The cells of a table of pruned networks: method x target x refit x seed.

Each seed also has a cell for the dense network.
"""

import pathlib
from typing import Any, NamedTuple

import ml_collections

from experiments._utils import grids
from experiments._utils import names
from experiments.records import metrics
from experiments.reporting import tables
import jaxsparse

_BASES = ('magnitude', 'wanda', 'sparsegpt', 'admm', 'alps')
# Blocks are trained afterwards to give the activations of the dense network.
_RECONSTRUCTED = '_reconstructed'
# Channels are put in an order with which N:M keeps more, before it.
_PERMUTED = '_permuted'
METHODS = (*_BASES, *(base + suffix for suffix in (_RECONSTRUCTED, _PERMUTED)
                      for base in _BASES))
# Keys of a config that may change without invalidating measurements.
SEED = '{seed}'  # In config.run, if each seed has a network of its own.
FREE = frozenset({'methods', 'targets', 'refit', 'seeds', 'save_pruned'})

_REFIT = {'no': (False,), 'yes': (True,), 'both': (False, True)}
_SUFFIX = '_refit'
_LEAST = dict(calibration=1, judged=1, batch_size=1, files_of_a_type=1)


class Cell(NamedTuple):
  """One network: how it is pruned."""
  method: str  # `tables.DENSE`, or one of `METHODS`.
  target: str | None  # 'N:M' or 'S%'; None for dense.
  refit: bool
  seed: int

  def __str__(self) -> str:
    return ' '.join(filter(None, (self.row, self.target, f'seed {self.seed}')))

  @property
  def row(self) -> str:
    """The row of the table that it is averaged in."""
    return self.method + _SUFFIX * self.refit

  @property
  def base(self) -> str:
    """The method of `jaxsparse.one_shot`."""
    return self.method.removesuffix(_RECONSTRUCTED).removesuffix(_PERMUTED)

  @property
  def is_reconstructed(self) -> bool:
    """Whether blocks are trained after it."""
    return self.method.endswith(_RECONSTRUCTED)

  @property
  def is_permuted(self) -> bool:
    """Whether channels are put in another order before it."""
    return self.method.endswith(_PERMUTED)

  @property
  def folder(self) -> pathlib.Path:
    """Where its files are, in the work directory."""
    target = grids.folder(self.target) if self.target else 'all'
    return pathlib.Path('cells') / self.row / target / f'seed_{self.seed}'


def checked(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a config with its references and lists resolved.

  Raises:
    ValueError: if there is a mistake in it.
  """
  config = config.copy_and_resolve_references()
  grids.split(config, ('methods', 'targets', 'folders'))
  grids.check(config, {'methods': 'wanda,sparsegpt', 'targets': '2:4'})
  grids.check_targets(config.targets, 'targets')
  for name in config.methods:
    names.lookup(dict.fromkeys(METHODS), name, kind='method')
  names.lookup(_REFIT, config.refit, kind='config.refit')
  for key, least in _LEAST.items():
    if config[key] < least:
      raise ValueError(
          f'config.{key} must be at least {least}, got {config[key]}')
  return config


def cells(config: ml_collections.ConfigDict) -> list[Cell]:
  """Returns all cells, seed after seed.

  Args:
    config: of `checked`.
  """
  return [cell for seed in config.seeds for cell in (
      Cell(tables.DENSE, None, False, seed), *(
          Cell(method, target, refit, seed) for target in config.targets
          for method in config.methods for refit in _REFIT[config.refit]))]


def has_networks(config: ml_collections.ConfigDict) -> bool:
  """Tells whether each seed has a network of its own."""
  return config.source == 'run' and SEED in (config.run or '')


def cell(row: metrics.Row) -> Cell:
  """Returns the cell that a row was measured of."""
  return Cell(**{key: row[key] for key in Cell._fields})


def rows(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the rows of the table, dense first."""
  return [*dict.fromkeys(cell.row for cell in cells(config))]


def pattern(target: str) -> jaxsparse.Pattern:
  """Returns the pattern of a target."""
  settings: dict[str, Any] = grids.of_target(target)
  if 'sparsity' in settings:
    return jaxsparse.unstructured(settings['sparsity'])
  return jaxsparse.nm(settings['n'], settings['m'])
