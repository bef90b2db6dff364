"""What every config of `experiments.prune` starts from: all methods, at 2:4."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns a config that still lacks a network."""
  config = ml_collections.ConfigDict()
  config.source = 'run'  # Or 'magika'.
  config.run = config_dict.placeholder(str)  # The --workdir of a trained run.
  config.sparse = config_dict.placeholder(str)  # Regex; None: the model's own.

  # With '_reconstructed' behind it, as in 'wanda_reconstructed', blocks are
  # trained afterwards to give the activations of the dense network.
  config.methods = ('magnitude', 'wanda', 'sparsegpt', 'admm', 'alps')
  config.targets = ('50%', '70%', '80%', '2:4', '1:4')  # Share pruned, or N:M.
  config.refit = 'both'  # Solves for the kept weights: 'yes', 'no' or 'both'.
  config.seeds = (0, 1, 2)  # Of the data that are drawn.

  config.calibration = 256  # Examples to prune with.
  config.judged = 1_000  # Examples to measure on, at most.
  config.batch_size = 32  # Of the examples to prune with.

  # Of magika: where files lie, such as --config.folders="'/usr,/opt'", or where
  # those of Python and its packages do; and how many of a type at most.
  config.folders = ()
  config.files_of_a_type = 100

  config.save_pruned = True  # Params and masks of each network.
  return config
