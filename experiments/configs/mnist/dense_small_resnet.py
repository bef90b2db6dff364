r"""A ResNet-8 with batch norm on 5,000 digits of MNIST, without sparsity.

  pip install -e '.[data]'
  python -m experiments.train \
      --config=experiments/configs/mnist/dense_small_resnet.py \
      --workdir=runs/mnist/dense_small_resnet

16 to 64 wide. Test accuracy XX%, of one seed.
"""

from experiments.configs.digits import dense_small_resnet


def get_config():
  config = dense_small_resnet.get_config()
  config.dataset = 'mnist'
  config.width = 16
  config.steps = 500
  config.batch_size = 32
  config.log_every = 100
  config.observe = False
  return config
