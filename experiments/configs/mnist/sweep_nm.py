r"""N:M from scratch at 2:4 to 1:16, in an MLP on 28 x 28 digits, tuned equally.

  pip install -e '.[mnist]'
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_nm.py \
      --workdir=runs/mnist/sweep_nm

The MLP of `dense.py`, 5 seeds. Each method is first tried with each learning
rate at 1:8 on a seed of its own, and then uses its best one. Its table.md is in
docs/results/mnist.md.
"""

import ml_collections

from experiments.configs.mnist import dense


def get_config():
  config = ml_collections.ConfigDict()
  config.base = dense.get_config()

  config.methods = ('dense', 'ste', 'sr_ste', 'mdgf_linear', 'mdgf_exponential',
                    'sdgf_stepwise', 's_ste', 'step', 'top_kast')
  config.targets = ('2:4', '1:8', '1:16')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {'sr_ste': {'decay': 2e-4}}  # What one method alone reads.

  config.tune = {
      'key': 'learning_rate', 'values': (3e-4, 1e-3, 3e-3), 'target': '1:8',
      'seeds': (1_000,)}  # Not among those above.
  config.reference = 'sr_ste'  # The others are compared with it.
  config.plot_target = '1:8'  # Of the curves over steps.
  return config
