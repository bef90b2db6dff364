r"""2:4 by S-STE: kept weights shrink by the largest that is pruned.

https://arxiv.org/abs/2409.09099

  python -m experiments.train \
      --config=experiments/configs/digits/s_ste_2_4.py \
      --workdir=runs/digits/s_ste_2_4

Test accuracy 96.6%, of one seed (dense: 98.0%, the mean of 3 seeds).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 's_ste'
  config.n, config.m = 2, 4
  return config
