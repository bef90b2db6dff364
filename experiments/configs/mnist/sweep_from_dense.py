r"""From a trained dense network to N:M at 2:4 to 1:16, tuned equally.

  pip install -e '.[data]'
  python -m experiments.train \
      --config=experiments/configs/mnist/dense.py --workdir=runs/mnist/dense
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_from_dense.py \
      --workdir=runs/mnist/sweep_from_dense

All runs begin with the network of the first command, so seeds differ in their
batches and their noise alone. Each method trains for 500 steps; `dense` tells
what these steps do without sparsity. Each method is first tried with each
learning rate at 1:8 on a seed of its own, and then uses its best one.
"""

import ml_collections

from experiments.configs.mnist import dense


def get_config():
  config = ml_collections.ConfigDict()
  config.base = dense.get_config()
  config.base.init_from = 'runs/mnist/dense'
  config.base.steps = 500
  config.base.log_every = 50

  config.methods = ('dense', 'prune_retrain', 'sr_ste', 'cast', 'elsa_nm',
                    'learned_masks', 'learned_masks_retrain')
  config.targets = ('2:4', '1:8', '1:16')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {  # What one method alone reads.
      'sr_ste': {'decay': 2e-4},
      'cast': {'decay': 0.1, 'every': 10, 'rescale': True},
      'elsa_nm': {'every': 10, 'penalty': 0.1}}

  config.tune = {
      'key': 'learning_rate', 'values': (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
      'target': '1:8', 'seeds': (1_000,)}  # Not among those above.
  config.reference = 'prune_retrain'  # The others are compared with it.
  config.plot_target = '1:8'  # Of the curves over steps.
  return config
