r"""Patterns at several ratios in one domain, given after the name of this file.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/sweep_ratios.py:texts \
      --workdir=runs/ratios/texts

`images`: a ResNet-8 on 5,000 digits of MNIST; `texts`: an encoder that tells
the edition of Shakespeare's plays; `clicks`: a narrow DLRM on synthetic clicks
that need its MLPs.
`python -m experiments.domains --ratios` runs all domains, and writes the ratio
at which each pattern costs 1%.
"""

import ml_collections

from experiments.configs.editions import dense as dense_text
from experiments.configs.mnist import dense_small_resnet
from experiments.configs.tangled_clicks import dense as dense_dlrm

DOMAINS = ('images', 'texts', 'clicks')
_SHARES = (0.8, 0.9, 0.95, 0.98)


def _shares(prefix, shares, **keys):
  """Rows of one pattern at several sparsities."""
  return {f'{prefix}_{round(100 * share)}': {'sparsity': share, **keys}
          for share in shares}


# Pattern -> the labels of its rows, and how their recipes prune.
PATTERNS = {
    'single weights': _shares('unstructured', _SHARES),
    'N:M': {f'{n}_of_{m}': {'pattern': f'{n}:{m}'}
            for n, m in ((2, 4), (1, 4), (1, 8), (1, 16))},
    'blocks of 4x1': _shares('block_4x1', _SHARES, pattern='4x1'),
    'blocks of 1x16': _shares('block_1x16', _SHARES, pattern='1x16'),
    'channels': _shares('channel', (0.3, 0.5, 0.7), pattern='channel'),
}


def get_config(domain='images'):
  config = ml_collections.ConfigDict()
  config.base = {
      'images': dense_small_resnet, 'texts': dense_text,
      'clicks': dense_dlrm}[domain].get_config()
  config.base.log_every = config.base.steps // 4
  config.base.save_every = config.base.steps
  steps = config.base.steps
  config.only = {
      row: {'method': 'recipe', 'recipe': {
          'criterion': 'snip_momentum', 'scope': 'global',
          'max_sparsity': 0.995, 'decay': 'exponential',
          'frequency': steps // 40, **keys}}
      for rows in PATTERNS.values() for row, keys in rows.items()}
  config.methods = ('dense', *config.only)
  config.targets = ()
  config.seeds = (0, 1, 2)
  config.reference = 'dense'
  return config
