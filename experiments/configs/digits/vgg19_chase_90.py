r"""VGG-19 in full width on the digits by Chase: a network to be timed.

https://arxiv.org/abs/2305.19454

  python -m experiments.train \
      --config=experiments/configs/digits/vgg19_chase_90.py \
      --workdir=runs/digits/vgg19_chase_90

Twenty million weights for 8x8 digits are far too many; experiments/benchmarks/
slimmed_network.py times the slimmed network on images as large as CIFAR's.

Test accuracy 98.0%, of one seed. The run takes seven minutes on two CPU cores.
3,533 of 5,504 channels are left.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'chase'
  config.model = 'vgg'
  config.steps = 400
  config.batch_size = 64
  config.optimizer = 'sgd'
  config.learning_rate = 0.05
  config.weight_decay = 5e-4
  config.log_every = 100
  config.save_every = 400
  config.observe = False
  config.sparsity = 0.9
  config.channel_sparsity = 0.4
  config.floor = 0.2
  config.multiple = 1
  config.every = 20
  config.prune_every = 20
  config.prune_skip = False
  config.slim = True
  return config
