r"""SRigL at 90%: all neurons of a layer read equally many pixels or neurons.

https://arxiv.org/abs/2305.02299

  pip install -e '.[mnist]'
  python -m experiments.train \
      --config=experiments/configs/mnist/srigl_90.py \
      --workdir=runs/mnist/srigl_90

Two hidden layers of 1,024 units. Trains it dense, too, and compares accuracy,
bytes and time:

  python -m experiments.side_by_side \
      --config=experiments/configs/mnist/srigl_90.py \
      --workdir=runs/side_by_side

Test accuracy 95.2%, of one seed (dense: 95.1%).
"""

from experiments.configs.mnist import dense


def get_config():
  config = dense.get_config()
  config.method = 'srigl'
  config.sparsity = 0.9
  config.every = 50
  config.width = 1_024
  config.steps = 500
  config.learning_rate = 3e-3
  config.log_every = 50
  config.observe = False  # It takes longer.
  return config
