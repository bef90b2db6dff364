r"""ResNet-50 on CIFAR-100 by Chase: 90% sparse, half of the channels removed.

https://arxiv.org/abs/2305.19454

  python -m experiments.train \
      --config=experiments/configs/cifar100/resnet50_chase.py \
      --workdir=runs/cifar100/resnet50_chase \
      --config.data_dir=DIR

DIR holds cifar-100-python.tar.gz of
https://www.cs.toronto.edu/~kriz/cifar.html, packed or unpacked.

No accuracy is stated: the data set is not shipped.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'chase'
  config.dataset = 'cifar100'
  config.model = 'resnet50'
  config.steps = 160 * 50_000 // 128  # 160 epochs.
  config.batch_size = 128
  config.optimizer = 'sgd'
  config.learning_rate = 0.1
  config.learning_rate_schedule = 'steps'
  config.weight_decay = 5e-4
  config.log_every = 1_000
  config.save_every = 1_000
  config.sparsity = 0.9
  config.channel_sparsity = 0.5
  config.floor = 0.5
  config.multiple = 1
  config.every = 1_000
  config.prune_every = 1_000
  config.prune_skip = False
  return config
