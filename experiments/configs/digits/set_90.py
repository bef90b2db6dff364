r"""SET at 90%: as RigL, but connections grow at random.

https://arxiv.org/abs/1707.04780

  python -m experiments.train \
      --config=experiments/configs/digits/set_90.py \
      --workdir=runs/digits/set_90

Test accuracy 96.0%, the mean of 3 seeds (dense: 98.0%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'set'
  config.sparsity = 0.9
  config.every = 50
  return config
