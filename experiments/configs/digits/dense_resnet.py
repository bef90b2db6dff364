r"""ResNet-8 without sparsity.

  python -m experiments.train \
      --config=experiments/configs/digits/dense_resnet.py \
      --workdir=runs/digits/dense_resnet

Test accuracy 98.9%, the mean of 3 seeds.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.model = 'resnet'
  config.steps = 500
  return config
