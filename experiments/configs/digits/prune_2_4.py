r"""Train, prune to 2:4 in the middle, retrain with the masks locked.

https://arxiv.org/abs/2104.08378

  python -m experiments.train \
      --config=experiments/configs/digits/prune_2_4.py \
      --workdir=runs/digits/prune_2_4

Test accuracy 97.4%, the mean of 5 seeds; right after pruning, at step 500, it
is 91.6%.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'train_prune_retrain'
  config.model = 'vit'
  config.steps = 1_000
  config.n, config.m = 2, 4
  return config
