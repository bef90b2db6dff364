r"""The decay of SR-STE with Adam and with SGD, in the small language model.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/python_source/sweep_sr_ste.py \
      --workdir=runs/python_source/sweep_sr_ste

With `sweep_sr_ste.py:sgd` and another work directory it trains by SGD, the
optimizer of SR-STE's paper. All rows are the model of `sweep_nm.py` at 1:8.
Only the decay of pruned weights differs, and whether it goes through Adam or
bypasses it. `ste` has none.
"""

from experiments.configs.python_source import sweep_nm

_LEARNING_RATES = {'adamw': (3e-3, 1e-2, 3e-2), 'sgd': (0.1, 0.3, 1.)}
_DECAYS = {'adamw': ('2e-5', '2e-4', '2e-3', '2e-2'),
           'sgd': ('2e-4', '2e-3', '2e-2')}
_DECOUPLED = ('1e-4', '1e-3', '1e-2')  # A step; the learning rate has no say.


def get_config(optimizer='adamw'):
  config = sweep_nm.get_config()
  config.base.optimizer = optimizer
  if optimizer == 'sgd':
    config.base.weight_decay = 1e-4
  rows = {f'sr_ste_{decay}': {'method': 'sr_ste', 'decay': float(decay)}
          for decay in _DECAYS[optimizer]}
  if optimizer == 'adamw':
    rows |= {f'sr_ste_decoupled_{decay}': {
        'method': 'sr_ste_decoupled', 'decay': float(decay)}
             for decay in _DECOUPLED}
  config.only = rows
  config.methods = ('dense', 'ste', *rows, 'mdgf_linear')
  config.targets = ('1:8',)
  config.tune['values'] = _LEARNING_RATES[optimizer]
  config.reference = 'ste'
  return config
