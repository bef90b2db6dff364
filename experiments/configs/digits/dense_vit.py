r"""The small vision transformer without sparsity.

  python -m experiments.train \
      --config=experiments/configs/digits/dense_vit.py \
      --workdir=runs/digits/dense_vit

Test accuracy 97.6%, the mean of 3 seeds.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.model = 'vit'
  config.steps = 1_000
  return config
