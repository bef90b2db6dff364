r"""Blocks of four outputs pruned to 80%, by the YAML recipe beside this file.

  python -m experiments.train \
      --config=experiments/configs/digits/recipe_4x1_80.py \
      --workdir=runs/digits/recipe_4x1_80

Test accuracy 96.3%, the mean of 3 seeds. For another recipe, write
--config.recipe=mine.yaml.
"""

from experiments.configs import default


def get_config():
  config = default.get_config()
  config.method = 'recipe'
  config.recipe = 'experiments/configs/digits/recipe_4x1_80.yaml'
  return config
