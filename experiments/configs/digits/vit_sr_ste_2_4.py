r"""The small vision transformer with 2:4 feed-forward layers, by SR-STE.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/digits/vit_sr_ste_2_4.py \
      --workdir=runs/digits/vit_sr_ste_2_4

Test accuracy 97.5%, the mean of 3 seeds (dense: 97.6%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.model = 'vit'
  config.steps = 1_000
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
