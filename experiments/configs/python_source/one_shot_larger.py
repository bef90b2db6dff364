r"""The larger language model of Python's source, pruned once after training.

  python -m experiments.train \
      --config=experiments/configs/python_source/dense_larger.py \
      --workdir=runs/python_source/dense_larger
  python -m experiments.prune \
      --config=experiments/configs/python_source/one_shot_larger.py \
      --workdir=runs/python_source/one_shot_larger

Losses in bits per byte are in docs/results/one_shot.md.
"""

from experiments.configs.python_source import one_shot


def get_config():
  config = one_shot.get_config()
  config.run = 'runs/python_source/dense_larger'
  return config
