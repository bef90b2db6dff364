r"""A narrow DLRM, dense, on SYNTHETIC clicks that need its MLPs.

  python -m experiments.train \
      --config=experiments/configs/tangled_clicks/dense.py \
      --workdir=runs/tangled_clicks/dense

Test AUC XX, of one seed. The probabilities that these synthetic clicks were
drawn from have XX, which no model beats but by chance.
"""

from experiments.configs.synthetic_clicks import dense


def get_config():
  config = dense.get_config()
  config.dataset = 'tangled_clicks'
  config.width = 8
  config.steps = 2_000
  config.log_every = 500
  config.observe = False
  return config
