r"""80% by SNIP-momentum: the score is a running sum of |weight * gradient|.

https://arxiv.org/abs/1810.02340 gives the criterion.

  python -m experiments.train \
      --config=experiments/configs/digits/snip_momentum_80.py \
      --workdir=runs/digits/snip_momentum_80

Test accuracy 97.1%, the mean of 3 seeds (dense: 98.0%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'snip_momentum'
  config.sparsity = 0.8
  config.begin = config.get_ref('steps') // 4
  config.end = config.get_ref('steps') * 3 // 4
  config.every = 50
  return config
