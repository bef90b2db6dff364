r"""2:4 by CAST: pruned weights of a trained network decay ever faster.

https://arxiv.org/abs/2509.25996

  python -m experiments.train \
      --config=experiments/configs/digits/cast_2_4.py \
      --workdir=runs/digits/cast_2_4 --config.init_from=runs/digits/dense

Test accuracy 98.0%, of one seed (the dense run that it begins with: 98.2%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'cast'
  config.n, config.m = 2, 4
  config.decay = 0.1
  config.every = 10
  config.rescale = True
  return config
