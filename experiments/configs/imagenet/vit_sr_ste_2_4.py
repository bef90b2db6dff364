r"""A vision transformer on ImageNet, feed-forward 2:4 by SR-STE.

https://arxiv.org/abs/2102.04010

  python -m experiments.train \
      --config=experiments/configs/imagenet/vit_sr_ste_2_4.py \
      --workdir=runs/imagenet/vit_sr_ste_2_4 \
      --config.data_dir=DIR

DIR holds train/<class>/*.JPEG and val/<class>/*.JPEG of
https://image-net.org/download.php.

No accuracy is stated: the data set is not shipped.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'sr_ste'
  config.dataset = 'imagenet'
  config.model = 'vit'
  config.width = 384
  config.depth = 12
  config.steps = 450_000
  config.batch_size = 256
  config.learning_rate = 1e-3
  config.weight_decay = 0.1
  config.log_every = 5_000
  config.save_every = 5_000
  config.n, config.m = 2, 4
  config.decay = 2e-4
  return config
