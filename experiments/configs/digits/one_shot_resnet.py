r"""A ResNet-8 with batch norm, pruned once after training, on the digits.

  python -m experiments.train \
      --config=experiments/configs/digits/dense_small_resnet.py \
      --workdir=runs/digits/dense_small_resnet
  python -m experiments.prune \
      --config=experiments/configs/digits/one_shot_resnet.py \
      --workdir=runs/digits/one_shot_resnet

After pruning, the batch norms get new running averages from the calibration
batches. The command writes the accuracies to table.md.
"""

from experiments.configs import one_shot


def get_config():
  config = one_shot.get_config()
  config.run = 'runs/digits/dense_small_resnet'
  return config
