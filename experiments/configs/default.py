"""The defaults of every config: a narrow MLP on the handwritten digits."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns a config in which only `method` is still empty."""
  config = ml_collections.ConfigDict()
  config.method = ''  # A name from experiments/training/methods.py.
  config.sparse = config_dict.placeholder(str)  # Regex; None: the model's own.

  config.dataset = 'digits'  # A name from experiments/data/__init__.py.
  config.data_dir = config_dict.placeholder(str)  # Its files.
  config.image_size = 224  # Pixels a side; for imagenet.
  config.context = 64  # Bytes a model sees at once; for texts.
  config.test_examples = 1_024  # At most; for data without a fixed test set.

  config.model = 'mlp'  # A name from experiments/models/__init__.py.
  config.width = config_dict.placeholder(int)  # None: the model's own.
  config.depth = config_dict.placeholder(int)  # None: the model's own.
  config.init_from = config_dict.placeholder(str)  # The --workdir of a run.
  config.init_slim = False  # Whether to cut out the dead channels of init_from.

  config.transposable = False  # N:M along both axes: N of 4 a row and a column.
  config.permute_budget = 0  # Sweeps of the search for a channel permutation.
  config.slim = False  # Measures dead channels and the FLOPs without them.

  config.steps = 2_000
  config.batch_size = 128
  config.optimizer = 'adamw'  # Or 'sgd'.
  config.momentum = 0.9  # For sgd.
  config.learning_rate = 3e-3  # The highest in the schedule.
  config.learning_rate_schedule = 'warmup_cosine'  # Or 'steps'.
  config.weight_decay = 0.5
  config.seed = 0

  # 'data:2,model:4' for 8 devices, see experiments/training/meshes.py.
  config.mesh = ''  # '': one device.

  config.log_every = 50
  config.save_every = 500
  config.observe = True  # Logs mask flips, gradient noise and FLOPs.
  return config
