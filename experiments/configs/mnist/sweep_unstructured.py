r"""Unstructured and constant fan-in sparsity at 80% to 98%, tuned equally.

  pip install -e '.[mnist]'
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_unstructured.py \
      --workdir=runs/mnist/sweep_unstructured

The MLP of `dense.py` on 28 x 28 digits, 5 seeds. Each method is first tried
with each learning rate at 95% on a seed of its own, and then uses its best one.
Its table.md is in docs/results/mnist.md.
"""

import ml_collections

from experiments.configs.mnist import dense


def get_config():
  config = ml_collections.ConfigDict()
  config.base = dense.get_config()
  config.base.every = 25
  config.base.begin = config.base.steps // 4
  config.base.end = config.base.steps * 3 // 4

  config.methods = ('dense', 'magnitude', 'set', 'rigl', 'srigl', 'granet',
                    'ac_dc', 'elsa')
  config.targets = ('80%', '90%', '95%', '98%')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {'elsa': {'penalty': 0.1}}  # What one method alone reads.

  config.tune = {
      'key': 'learning_rate', 'values': (3e-4, 1e-3, 3e-3), 'target': '95%',
      'seeds': (1_000,)}  # Not among those above.
  config.reference = 'rigl'  # The others are compared with it.
  config.plot_target = '95%'  # Of the curves over steps.
  return config
