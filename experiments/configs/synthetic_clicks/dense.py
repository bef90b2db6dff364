r"""A DLRM without sparsity, on SYNTHETIC clicks.

  python -m experiments.train \
      --config=experiments/configs/synthetic_clicks/dense.py \
      --workdir=runs/synthetic_clicks/dense

Test AUC 0.8414, the mean of 3 seeds. The probabilities that these synthetic
clicks were drawn from have 0.8572, which no model beats but by chance.

Real clicks: --config.dataset=criteo or movielens, and --config.data_dir.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'synthetic_clicks'
  config.test_examples = 16_384
  config.model = 'dlrm'
  config.steps = 1_000
  config.batch_size = 256
  config.learning_rate = 1e-2
  config.weight_decay = 1e-4
  config.log_every = 200
  return config
