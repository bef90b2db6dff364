r"""No sparsity: the baseline of the other configs.

  python -m experiments.train \
      --config=experiments/configs/digits/dense.py \
      --workdir=runs/digits/dense

Test accuracy 98.0%, the mean of 3 seeds.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  return config
