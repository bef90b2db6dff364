r"""1:8 by decaying masks: pruned weights fade out until 70% of training.

https://arxiv.org/abs/2402.04744

  python -m experiments.train \
      --config=experiments/configs/digits/mdgf_1_8.py \
      --workdir=runs/digits/mdgf_1_8

Test accuracy 96.0%, the mean of 3 seeds (dense: 98.0%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'mdgf_linear'
  config.n, config.m = 1, 8
  return config
