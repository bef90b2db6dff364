r"""One-shot N:M with and without another order of channels.

The network is given after the name of this file. The first command trains only
the dense runs of a sweep; leave it out where the whole sweep was run:

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/mnist/sweep_dynamic.py \
      --workdir=runs/mnist/sweep_dynamic --config.methods=dense \
      --config.seeds=0,1,2,3,4
  python -m experiments.prune \
      --config=experiments/configs/permuted.py:resnet20 \
      --workdir=runs/permuted/resnet20

`mlp`, `resnet20`, `vit` and `lm` are dense networks of the sweeps named below,
one for each seed. `magika` is Google's classifier of files, for which a seed
draws files of this machine.
"""

import ml_collections

from experiments.configs import one_shot

_SWEEPS = {'mlp': 'mnist/sweep_unstructured', 'resnet20': 'mnist/sweep_dynamic',
           'vit': 'mnist/sweep_nm_vit', 'lm': 'plays/sweep_nm'}
NETWORKS = (*_SWEEPS, 'magika')


def get_config(network='magika') -> ml_collections.ConfigDict:
  config = one_shot.get_config()
  if network == 'magika':
    config.source = 'magika'
  else:
    config.run = f'runs/{_SWEEPS[network]}/runs/dense/all/seed_{{seed}}'
  config.methods = ('magnitude', 'magnitude_permuted', 'wanda',
                    'wanda_permuted', 'sparsegpt', 'sparsegpt_permuted')
  config.targets = ('2:4', '1:4')
  config.refit = 'no'
  config.seeds = (0, 1, 2, 3, 4)
  config.save_pruned = False
  return config
