r"""2:4 by SR-STE: straight-through gradients, pruned weights decay.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/digits/sr_ste_2_4.py \
      --workdir=runs/digits/sr_ste_2_4

Test accuracy 98.1%, the mean of 3 seeds (dense: 98.0%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
