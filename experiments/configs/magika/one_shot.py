r"""Google's classifier of files, pruned once with a few files of this machine.

  pip install -e '.[data]'
  python -m experiments.prune \
      --config=experiments/configs/magika/one_shot.py \
      --workdir=runs/magika/one_shot

Accuracies are in docs/results/one_shot.md.
"""

from experiments.configs import one_shot


def get_config():
  config = one_shot.get_config()
  config.source = 'magika'
  config.methods = ('magnitude', 'wanda', 'sparsegpt', 'admm')
  return config
