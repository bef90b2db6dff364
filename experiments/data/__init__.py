"""Data sets: `load(config)` returns the one that `config.dataset` names.

Batches are made on the host, by numpy, from the seed and the step. A compiled
train step therefore does not depend on the seed and can be reused for others.
"""

import functools

import ml_collections

from experiments._utils import names
from experiments.data import cifar
from experiments.data import clicks
from experiments.data import criteo
from experiments.data import digits
from experiments.data import editions
from experiments.data import glue
from experiments.data import imagenet
from experiments.data import mnist
from experiments.data import movielens
from experiments.data import packages
from experiments.data import plays
from experiments.data import python_source
from experiments.data.dataset import Batch
from experiments.data.dataset import Dataset
from experiments.data.dataset import IMAGES
from experiments.data.dataset import NEXT_BYTE
from experiments.data.dataset import RECOMMENDATION

_LOADERS = {
    'digits': digits.load,
    'mnist': mnist.load,
    'python_source': python_source.load,
    'plays': plays.load,
    'packages': packages.load,
    'editions': editions.load,
    'synthetic_clicks': clicks.load,
    'tangled_clicks': functools.partial(clicks.load, law=clicks.TANGLED),
    'criteo': criteo.load,
    'movielens': movielens.load,
    'cifar10': functools.partial(cifar.load, layout=cifar.CIFAR10),
    'cifar100': functools.partial(cifar.load, layout=cifar.CIFAR100),
    'imagenet': imagenet.load,
    **{f'glue/{name}': functools.partial(glue.load, task=task)
       for name, task in glue.TASKS.items()},
}


def load(config: ml_collections.ConfigDict) -> Dataset:
  """Returns the config's data set.

  Raises:
    ValueError: if the name is unknown, or the files in `config.data_dir` are
      missing or differ from the published ones.
  """
  return names.lookup(_LOADERS, config.dataset, kind='dataset')(config)
