r"""Dynamic sparse training of a ResNet-20 on 28 x 28 digits, Chase in detail.

  pip install -e '.[data]'
  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_dynamic.py \
      --workdir=runs/mnist/sweep_dynamic

Rows `chase_0` to `chase_50` remove that percentage of the channels, with the
floor of the paper's VGG-19 and ImageNet networks, 0.2. The other rows remove
them otherwise: with a higher floor, so that layers share the loss more evenly;
from skip paths, too; or so that widths stay multiples of 8, which suit vector
units. With `sweep_dynamic.py:long` and another work directory, all train for
1.5 times the steps. Then time the networks without their dead channels:

  python -m experiments.benchmarks.slimmed_network --image_size=28 \
      --workdirs='runs/mnist/sweep_dynamic/runs/chase*/*/seed_0'
"""

import ml_collections

from experiments.configs.mnist import dense_resnet20


def get_config(steps=''):
  config = ml_collections.ConfigDict()
  config.base = dense_resnet20.get_config()
  if steps == 'long':
    config.base.steps = config.base.steps * 3 // 2
  elif steps:
    raise ValueError('sweep_dynamic.py is followed by nothing or by :long, got '
                     f'{steps!r}')
  config.base.slim = True
  config.base.every = 20
  config.base.log_every = 50
  # Of Chase:
  config.base.channel_sparsity = 0.4
  config.base.floor = 0.2
  config.base.multiple = 1
  config.base.prune_every = 20
  config.base.prune_skip = False

  # For each row of the table, the keys that differ from the base.
  rows = {
      'dense': {}, 'set': {}, 'dsr': {}, 'snfs': {}, 'rigl': {},
      'rigl_itop': {'every': 60}, 'mest': {},
      **{f'chase_{share}': {
          'method': 'chase', 'channel_sparsity': share / 100}
         for share in (0, 30, 40, 50)},
      'chase_40_floor_50': {'method': 'chase', 'floor': 0.5},
      'chase_40_floor_100': {'method': 'chase', 'floor': 1.},
      'chase_40_skip': {'method': 'chase', 'floor': 1., 'prune_skip': True},
      **{f'chase_{share}_by_8': {
          'method': 'chase', 'channel_sparsity': share / 100, 'floor': 1.,
          'prune_skip': True, 'multiple': 8} for share in (40, 50)}}
  config.only = rows
  config.methods = tuple(rows)
  config.targets = ('80%', '90%', '95%')
  config.seeds = (0, 1, 2, 3, 4)

  config.reference = 'rigl'  # The method that the others are compared with.
  config.plot_target = '90%'  # The target of the curves over steps.
  return config
