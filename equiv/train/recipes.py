"""The kinds of recipes, by the name of the model.

`model.name` picks the recipe, and everything else in the file is checked against that one.
"""

from equiv.train.recipe import Recipe
from equiv.train.recipe_forecast import ForecastRecipe
from equiv.train.recipe_hamiltonian import SPHNetRunRecipe
from equiv.train.recipe_ponita import PonitaRunRecipe
from equiv.train.recipe_potential import MACERunRecipe
from equiv.train.recipe_property import PropertyRecipe

DEFAULT = "mace"  # the model of a recipe that names none

RECIPES: dict[str, type[Recipe]] = {
    "mace": MACERunRecipe,
    "sphnet": SPHNetRunRecipe,
    "forecaster": ForecastRecipe,
    "regressor": PropertyRecipe,
    "ponita": PonitaRunRecipe,
}
"""Recipe classes by `model.name`; the names are those of `equiv.models.MODELS`."""
