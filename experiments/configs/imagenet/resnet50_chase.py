r"""ResNet-50 on ImageNet by Chase: 80% sparse, 40% of the channels removed.

https://arxiv.org/abs/2305.19454

  python -m experiments.train \
      --config=experiments/configs/imagenet/resnet50_chase.py \
      --workdir=runs/imagenet/resnet50_chase \
      --config.data_dir=DIR

DIR holds train/<class>/*.JPEG and val/<class>/*.JPEG of
https://image-net.org/download.php.

No accuracy is stated: the data set is not shipped.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'chase'
  config.dataset = 'imagenet'
  config.model = 'resnet50'
  config.steps = 100 * 1_281_167 // 256  # 100 epochs.
  config.batch_size = 256
  config.optimizer = 'sgd'
  config.learning_rate = 0.1
  config.weight_decay = 1e-4
  config.log_every = 5_000
  config.save_every = 5_000
  config.sparsity = 0.8
  config.channel_sparsity = 0.4
  config.floor = 0.2
  config.multiple = 1
  config.every = 1_000
  config.prune_every = 1_000
  config.prune_skip = False
  return config
