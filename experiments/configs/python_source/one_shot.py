r"""The language model of Python's source, pruned once after training.

  python -m experiments.train \
      --config=experiments/configs/python_source/dense.py \
      --workdir=runs/python_source/dense
  python -m experiments.prune \
      --config=experiments/configs/python_source/one_shot.py \
      --workdir=runs/python_source/one_shot

Losses in bits per byte are in docs/results/one_shot.md.
"""

from experiments.configs import one_shot


def get_config():
  config = one_shot.get_config()
  config.run = 'runs/python_source/dense'
  config.targets = ('50%', '60%', '70%', '80%', '2:4', '4:8', '1:4')
  return config
