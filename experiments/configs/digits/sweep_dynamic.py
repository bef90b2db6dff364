r"""Dynamic sparse training: every method, at 80% and 90%, in 1x and 1.5x steps.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/digits/sweep_dynamic.py \
      --workdir=runs/digits/sweep_dynamic

A ResNet-8 with batch norm on the digits, 5 seeds, 210 runs. The sweep writes
table.md with the accuracies and the FLOPs of training, of a forward pass, and
of a dense forward pass without dead channels. For CIFAR-100 add
--config.base.dataset=cifar100 --config.base.data_dir=DIR
--config.base.width=16 --config.base.depth=20 --config.base.steps=60000.
"""

import ml_collections

from experiments.configs.digits import dense_small_resnet

_LONG = 1.5


def get_config():
  config = ml_collections.ConfigDict()
  config.base = dense_small_resnet.get_config()
  config.base.slim = True
  config.base.every = 25
  config.base.log_every = 200
  # Of Chase:
  config.base.channel_sparsity = 0.
  config.base.floor = 0.2
  config.base.multiple = 1
  config.base.prune_every = 25
  config.base.prune_skip = False

  # For each row of the table, the keys that differ from the base.
  rows = {
      'dense': {}, 'set': {}, 'dsr': {}, 'snfs': {}, 'rigl': {},
      'rigl_itop': {'every': 100}, 'mest': {},
      **{f'chase_{share}': {
          'method': 'chase', 'channel_sparsity': share / 100}
         for share in (0, 30, 40, 50)}}
  steps = int(_LONG * config.base.steps)
  longer = {f'{row}_long': {'method': row, **changes, 'steps': steps}
            for row, changes in rows.items()}
  config.only = {**rows, **longer}
  config.methods = (*rows, *longer)
  config.targets = ('80%', '90%')
  config.seeds = (0, 1, 2, 3, 4)

  config.reference = 'rigl'  # The method that the others are compared with.
  config.plot_target = '90%'  # The target of the curves over steps.
  return config
