r"""Every N:M method at 2:4 to 1:64, in a byte language model, tuned equally.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/python_source/sweep_nm.py \
      --workdir=runs/python_source/sweep_nm

The sweep writes table.md with the losses in bits per byte, the means of 5
seeds; docs/results/nm_from_scratch.md shows it. First each method is tried with
each learning rate at 1:8, on a seed that is used for nothing else; then it runs
with its best one.
The 239 runs take about half an hour on two CPU cores. For a larger model on an
accelerator, add --config.base.width=512 --config.base.depth=8
--config.base.context=256 --config.base.batch_size=64 --config.base.steps=20000
and lower the learning rates.
"""

import ml_collections

from experiments.configs import default


def get_config():
  config = ml_collections.ConfigDict()
  config.base = default.get_config()
  config.base.dataset = 'python_source'
  config.base.model = 'lm'
  config.base.steps = 800
  config.base.context = 32
  config.base.test_examples = 512
  config.base.batch_size = 16
  config.base.weight_decay = 0.1
  config.base.log_every = 100

  config.methods = (
      'dense', 'ste', 'sr_ste', 'mdgf_linear', 'mdgf_exponential',
      'sdgf_stepwise', 'sdgf_geometric', 'top_kast')
  config.targets = ('2:4', '1:4', '1:8', '1:16', '1:32', '1:64')
  config.seeds = (0, 1, 2, 3, 4)
  config.only = {'sr_ste': {'decay': 2e-4}}  # Keys that only one method reads.

  config.tune = {
      'key': 'learning_rate', 'values': (3e-3, 1e-2, 3e-2), 'target': '1:8',
      'seeds': (1_000,)}  # Not among config.seeds.
  config.reference = 'sr_ste'  # The method that the others are compared with.
  config.plot_target = '1:8'  # The target of the curves over steps.
  return config
