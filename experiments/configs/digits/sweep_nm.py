r"""Every N:M method at 2:4 to 1:32, in a small vision transformer, on digits.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/digits/sweep_nm.py \
      --workdir=runs/digits/sweep_nm

The sweep writes table.md with the accuracies, the means of 5 seeds. It has 180
runs, which take an evening on two CPU cores; --config.seeds=0,1 and
--config.base.steps=200 shorten it.
"""

import ml_collections

from experiments.configs import default


def get_config():
  config = ml_collections.ConfigDict()
  config.base = default.get_config()
  config.base.model = 'vit'
  config.base.steps = 1_000

  config.methods = (
      'dense', 'ste', 'sr_ste', 'mdgf_linear', 'mdgf_exponential',
      'sdgf_stepwise', 'sdgf_geometric', 'top_kast')
  config.targets = ('2:4', '1:4', '1:8', '1:16', '1:32')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {'sr_ste': {'decay': 2e-4}}  # Keys that only one method reads.

  config.reference = 'sr_ste'  # The method that the others are compared with.
  config.plot_target = '1:8'  # The target of the curves over steps.
  return config
