r"""The decay of SR-STE with Adam and with SGD, in the small language model.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/python_source/sweep_sr_ste.py \
      --workdir=runs/python_source/sweep_sr_ste

All rows are the model of `sweep_nm.py` at 1:8. Only the decay of pruned weights
differs, and whether it goes through Adam or bypasses it. `ste` has none. After
the name of this file may stand `:sgd`, the optimizer of SR-STE's paper,
`:longer` for four times the steps (also at 1:32, and with every method that
decays), or `:wider` for twice the width; give each its own work directory.
Their tables are in docs/results/nm_from_scratch.md.
"""

from experiments.configs.python_source import sweep_nm

_DECOUPLED = ('1e-4', '1e-3', '1e-2')  # A step; the learning rate has no say.


def get_config(variant='adamw'):
  config = sweep_nm.get_config()
  config.tune['values'] = (3e-3, 1e-2, 3e-2)
  decays = ('2e-4', '2e-3', '2e-2')
  if variant == 'adamw':
    decays = ('2e-5', *decays)
  elif variant == 'sgd':
    config.base.update(optimizer='sgd', weight_decay=1e-4)
    config.tune['values'] = (0.1, 0.3, 1.)
  elif variant == 'longer':
    config.base.steps *= 4
    config.base.log_every *= 4
  elif variant == 'wider':
    config.base.width = 128  # Not 64.
  else:
    raise ValueError('sweep_sr_ste.py is followed by nothing, :sgd, :longer or '
                     f':wider, got {variant!r}')

  rows = {f'sr_ste_{decay}': {'method': 'sr_ste', 'decay': float(decay)}
          for decay in decays}
  if variant == 'adamw':
    rows |= {f'sr_ste_decoupled_{decay}': {
        'method': 'sr_ste_decoupled', 'decay': float(decay)}
             for decay in _DECOUPLED}
  config.only = rows
  config.methods = ('dense', 'ste', *rows, 'mdgf_linear')
  config.targets = ('1:8',)
  if variant == 'longer':
    config.methods += ('mdgf_exponential', 'sdgf_stepwise', 'sdgf_geometric')
    config.targets += ('1:32',)
  config.reference = 'ste'
  return config
