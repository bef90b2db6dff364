r"""Chase at 90%: connections move, and half of the channels die on the way.

https://arxiv.org/abs/2305.19454

  python -m experiments.train \
      --config=experiments/configs/digits/chase_90.py \
      --workdir=runs/digits/chase_90

channels.png shows in which layers channels die. To go on with the smaller
network alone:

  python -m experiments.train \
      --config=experiments/configs/digits/dense_small_resnet.py \
      --workdir=runs/digits/slimmed --config.init_from=runs/digits/chase_90 \
      --config.init_slim=True

Test accuracy 98.3%, the mean of 3 seeds (dense: 99.1%).
"""

from experiments.configs.digits import dense_small_resnet


def get_config():
  config = dense_small_resnet.get_config()
  config.method = 'chase'
  config.sparsity = 0.9
  config.channel_sparsity = 0.5
  config.floor = 0.2
  config.multiple = 1
  config.prune_skip = False
  config.every = 25
  config.prune_every = 25
  config.slim = True
  return config
