r"""Patterns and criteria in one domain, given after the name of this file.

  python -m experiments.sweep --workers=2 \
      --config=experiments/configs/sweep_domains.py:nlp \
      --workdir=runs/domains/nlp

`cv`: a ResNet-8 on the digits; `nlp`: an encoder that tells which package of
Python's standard library a snippet comes from; `lm`: a byte language model of
that library; `recommendation`: a DLRM on synthetic clicks. `python -m
experiments.domains` runs all domains and writes one table. To use published
data, set --config.base.dataset to cifar10, glue/sst2, criteo or movielens, for
example, together with --config.base.data_dir.
"""

import ml_collections

from experiments.configs.digits import dense_small_resnet
from experiments.configs.packages import dense as dense_text
from experiments.configs.python_source import dense as lm_dense
from experiments.configs.synthetic_clicks import dense as dense_dlrm

DOMAINS = ('cv', 'nlp', 'lm', 'recommendation')


def get_config(domain='cv'):
  config = ml_collections.ConfigDict()
  config.base = {
      'cv': _vision, 'nlp': _texts, 'lm': _language_model,
      'recommendation': dense_dlrm.get_config}[domain]()
  config.base.log_every = config.base.steps // 4
  config.base.save_every = config.base.steps
  config.base.observe = False

  def recipe(pattern, **keys):
    """A recipe as in Neural Compressor's examples, with 40 mask updates."""
    return {'method': 'recipe', 'recipe': {
        'pattern': pattern, 'criterion': 'snip_momentum', 'scope': 'global',
        'max_sparsity': 0.98, 'decay': 'exponential',
        'frequency': config.base.steps // 40, **keys}}

  # The label of each row of the table, and how that row prunes.
  rows = {
      'unstructured_80': recipe('unstructured', sparsity=0.8),
      'unstructured_90': recipe('unstructured', sparsity=0.9),
      'two_of_four': recipe('2:4'),
      'block_4x1': recipe('4x1', sparsity=0.8),
      'block_4x1_progressive': recipe(
          '4x1', sparsity=0.8, progressive=True),
      'block_1x16': recipe('1x16', sparsity=0.8),
      'channel': recipe('channel', sparsity=0.5),
      'sensitivity': {'method': 'sensitivity', 'sparsity': 0.5, 'slim': True},
      'group_lasso': {
          'method': 'group_lasso', 'slim': True,
          'alpha': {'cv': 0.2, 'nlp': 2., 'lm': 1., 'recommendation': 2.}[
              domain]},
  }
  config.only = rows
  config.methods = ('dense', *rows)
  config.targets = ()
  config.seeds = (0, 1, 2, 3, 4)
  config.reference = 'dense'
  return config


def _vision():
  config = dense_small_resnet.get_config()
  config.width = 16
  config.steps = 500
  return config


def _texts():
  config = dense_text.get_config()
  config.width = 48  # Four heads of 12 dimensions.
  return config


def _language_model():
  config = lm_dense.get_config()
  config.width = 48
  config.steps = 1_000
  config.context = 32
  config.test_examples = 512
  config.learning_rate = 1e-2
  return config
