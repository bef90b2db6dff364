"""Recipes: a dict or a YAML file that describes a whole sparse training.

`from_recipe` checks a recipe, fills in defaults and returns a `Recipe`, whose
method `sparsify` makes the optimizer. `to_recipe` writes a recipe with all
defaults. `from_recipe` also reads the configuration files of Intel Neural
Compressor. `help(jaxsparse.recipes.schema)` shows the table of all keys.
"""

from jaxsparse.recipes.building import from_recipe
from jaxsparse.recipes.building import Recipe
from jaxsparse.recipes.building import to_recipe

__all__ = [
    'from_recipe', 'Recipe', 'to_recipe',
]
