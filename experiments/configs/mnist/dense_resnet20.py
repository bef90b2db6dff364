r"""A ResNet-20 of full width with batch norm on 5,000 digits of MNIST.

  pip install -e '.[data]'
  python -m experiments.train \
      --config=experiments/configs/mnist/dense_resnet20.py \
      --workdir=runs/mnist/dense_resnet20

It is the network of CIFAR, 16 to 64 channels wide, on 28 x 28 pixels. Test
accuracy 97.2%, of one seed.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'mnist'
  config.model = 'resnet20'
  config.steps = 300
  config.batch_size = 32
  config.optimizer = 'sgd'
  config.learning_rate = 0.1
  config.weight_decay = 5e-4
  config.log_every = 150
  return config
