"""Recipes to begin with: commented, complete, and readable as they stand."""

import re

import pytest
import yaml
from typer.testing import CliRunner

from tvmfbnet.cli.recipe import app
from tvmfbnet.pipeline.recipe import Recipe, list_recipes, load_recipe
from tvmfbnet.settings import commented_yaml, reference_table
from tvmfbnet.training.config import TrainConfig


def run(*words):
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("name", list_recipes())
def test_a_new_recipe_is_the_one_that_it_is_like(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(run("new", "--like", name))
    assert load_recipe(str(path))[1] == load_recipe(name)[1]


def test_a_new_recipe_takes_another_target_space_and_data(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(run("new", "--target", "rpi4", "--space", "mine.yaml", "--data", "imagefolder:/data: odd"))
    recipe = load_recipe(str(path))[1]
    assert (recipe.target, recipe.space, recipe.data) == ("rpi4", "mine.yaml", "imagefolder:/data: odd")


def test_what_is_commented_out_is_the_default():
    text = commented_yaml(Recipe, {"description": "d", "target": "t", "space": "s", "data": "x"})
    uncommented = re.sub(r"^( *)#(\w+: )", r"\1\2", text, flags=re.M)
    defaults = yaml.safe_load("\n".join(line for line in uncommented.splitlines() if not line.lstrip().startswith("#")))
    whole = Recipe.model_validate(
        {"description": "d", "target": "t", "space": "s", "data": "x", "search": {}, "train": {}}
    )
    assert Recipe.model_validate(defaults) == whole
    assert set(defaults["train"]) == set(TrainConfig.model_fields)


def test_recipes_are_listed_and_shown():
    assert "demo" in run("list")
    assert yaml.safe_load(run("show", "demo"))["train"]["momentum"] == 0.9


def test_the_reference_tells_values_default_and_meaning():
    table = reference_table(TrainConfig)
    assert "| `epochs` | whole number ≥ 1 and ≤ 100,000 | `90` | passes over" in table
    assert "| `ema_decay` | number > 0 and < 1 | `0.999` |" in table
