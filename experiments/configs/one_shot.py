"""The defaults of every config of `experiments.prune`: all methods, at 2:4."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns a config in which only the network, `run`, is still unset."""
  config = ml_collections.ConfigDict()
  config.source = 'run'  # Or 'magika'.
  # The --workdir of a trained run. With {seed} in it, such as runs/seed_{seed},
  # each seed prunes a network of its own.
  config.run = config_dict.placeholder(str)
  config.sparse = config_dict.placeholder(str)  # Regex; None: the model's own.

  # A name that ends in '_reconstructed', such as 'wanda_reconstructed', also
  # trains each block afterwards to give the activations of the dense network.
  # '_permuted' first orders channels so that N:M keeps more magnitude.
  config.methods = ('magnitude', 'wanda', 'sparsegpt', 'admm', 'alps')
  config.targets = ('50%', '70%', '80%', '2:4', '1:4')  # Share pruned, or N:M.
  config.refit = 'both'  # Whether to solve for the kept weights: yes, no, both.
  config.seeds = (0, 1, 2)  # Seeds of the drawn data.

  config.calibration = 256  # Examples to prune with.
  config.judged = 1_000  # Examples to measure on, at most.
  config.batch_size = 32  # Of the examples to prune with.

  # Only for 'magika': the folders to search for files, such as
  # --config.folders="'/usr,/opt'" (empty: those of Python and its packages),
  # and the most files of one type.
  config.folders = ()
  config.files_of_a_type = 100

  config.save_pruned = True  # Params and masks of each network.
  return config
