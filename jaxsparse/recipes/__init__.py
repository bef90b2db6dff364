"""Recipes as data: a dict or a YAML file says everything about a pruning.

`from_recipe` checks a recipe, fills in defaults and returns a `Recipe`, which
makes the optimizer; `to_recipe` writes it with all defaults. Files of Intel
Neural Compressor are read, too. `help(jaxsparse.recipes.schema)` shows the
table of all keys.
"""

from jaxsparse.recipes.building import from_recipe
from jaxsparse.recipes.building import Recipe
from jaxsparse.recipes.building import to_recipe

__all__ = [
    'from_recipe', 'Recipe', 'to_recipe',
]
