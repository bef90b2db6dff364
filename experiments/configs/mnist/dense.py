r"""An MLP on 5,000 digits of MNIST, 28 x 28 pixels, without sparsity.

  pip install -e '.[mnist]'
  python -m experiments.train \
      --config=experiments/configs/mnist/dense.py --workdir=runs/mnist/dense

Two hidden layers of 256 units: 266,240 weights that may be sparse. Test
accuracy 94.6%, of one seed.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'mnist'
  config.width = 256
  config.steps = 1_000
  config.learning_rate = 1e-3
  config.weight_decay = 0.1
  config.log_every = 100
  return config
