r"""ResNet-8 by RigL at 90%.

https://arxiv.org/abs/1911.11134

  python -m experiments.train \
      --config=experiments/configs/digits/resnet_rigl_90.py \
      --workdir=runs/digits/resnet_rigl_90

Test accuracy 98.1%, the mean of 3 seeds (dense: 98.9%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'rigl'
  config.model = 'resnet'
  config.steps = 500
  config.sparsity = 0.9
  config.every = 25
  return config
