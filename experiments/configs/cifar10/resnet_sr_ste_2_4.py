r"""A small ResNet on CIFAR-10, 2:4 by SR-STE.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/cifar10/resnet_sr_ste_2_4.py \
      --workdir=runs/cifar10/resnet_sr_ste_2_4 \
      --config.data_dir=DIR

DIR holds cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html,
packed or unpacked. For CIFAR-100 add --config.dataset=cifar100.

No accuracy is stated: the data set is not shipped.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.dataset = 'cifar10'
  config.model = 'resnet'
  config.width = 32
  config.steps = 40_000
  config.log_every = 1_000
  config.save_every = 1_000
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
