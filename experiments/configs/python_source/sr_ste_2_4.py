r"""The language model of Python's source, feed-forward 2:4 by SR-STE.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/python_source/sr_ste_2_4.py \
      --workdir=runs/python_source/sr_ste_2_4

Validation loss 2.368 bits per byte, the mean of 3 seeds (dense: 2.285).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.dataset = 'python_source'
  config.model = 'lm'
  config.batch_size = 16
  config.weight_decay = 0.1
  config.log_every = 100
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
