r"""ELSA at 90%: weights of a trained network are drawn to a sparse copy.

https://arxiv.org/abs/2510.01650

  python -m experiments.train \
      --config=experiments/configs/digits/elsa_90.py \
      --workdir=runs/digits/elsa_90 --config.init_from=runs/digits/dense

Test accuracy 97.2%, of one seed (the dense run that it begins with: 98.2%).
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'elsa'
  config.sparsity = 0.9
  config.every = 32
  config.penalty = 0.1
  return config
