r"""A vision transformer on 5,000 digits of MNIST, without sparsity.

  pip install -e '.[data]'
  python -m experiments.train \
      --config=experiments/configs/mnist/dense_vit.py \
      --workdir=runs/mnist/dense_vit

Four blocks of width 64 read 49 patches of 4 x 4 pixels. 131,072 weights in the
feed-forward kernels may be sparse. Test accuracy 87.6%, of one seed.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'mnist'
  config.model = 'vit'
  config.width = 64
  config.depth = 4
  config.steps = 600
  config.batch_size = 32
  config.weight_decay = 0.1
  config.log_every = 100
  return config
