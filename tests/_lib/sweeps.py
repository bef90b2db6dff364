"""A small sweep, and results of a sweep that were never measured."""

from collections.abc import Mapping
from collections.abc import Sequence

import ml_collections

from experiments.configs import default
from experiments.reporting import tables

# Accuracies in percent, one a seed, by method and target.
MEASURED = {
    ('dense', None): (98, 98, 98),
    ('ste', '2:4'): (90, 91, 92), ('sr_ste', '2:4'): (92, 94, 96),
    ('mdgf', '2:4'): (95, 96, None), ('ste', '1:8'): (80, 80, 80),
    ('sr_ste', '1:8'): (82, 82, 82)}
# Methods under other names, or with other settings, than the sweep's own.
VARIANTS = {
    'set_long': {'method': 'set', 'steps': 9}, 'set': {'every': 2},
    'dense_long': {'method': 'dense', 'steps': 9}}


def small(**settings) -> ml_collections.ConfigDict:
  """Returns two methods at two targets with two seeds, six steps each."""
  config = ml_collections.ConfigDict()
  config.base = default.get_config()
  config.base.update(
      steps=6, log_every=2, save_every=2, batch_size=16, width=16)
  config.methods = ('ste', 'sr_ste')
  config.targets = ('2:4', '1:8')
  config.seeds = (0, 1)
  config.only = {'sr_ste': {'decay': 2e-4}}
  config.update(settings)
  return config


def runs(accuracies: Mapping[tuple[str, str | None], Sequence[float | None]]
         ) -> list[tables.Run]:
  """Returns runs whose last row has these accuracies, in percent, one a seed.
  """
  return [
      tables.Run(method, target, seed, [
          {'step': 3, 'sparsity': 0.5, 'accuracy': value / 100}])
      for (method, target), values in accuracies.items()
      for seed, value in enumerate(values) if value is not None]
