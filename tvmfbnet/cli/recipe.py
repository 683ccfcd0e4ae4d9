"""``tvmfbnet recipe``: shipped recipes, and a commented one to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, print_json, print_table
from tvmfbnet.data.kinds import DATA_HELP

app = typer.Typer(help="Recipes of whole runs: list the shipped ones, show one, begin a new one.", no_args_is_help=True)


@app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the shipped recipes. Example: tvmfbnet recipe list."""
    from tvmfbnet.pipeline.recipe import list_recipes, load_recipe

    recipes = [(name, load_recipe(name)[1]) for name in list_recipes()]
    if as_json:
        print_json([{"name": name, "description": recipe.description} for name, recipe in recipes])
        return
    rows = [(name, recipe.target, recipe.space, recipe.data, recipe.description) for name, recipe in recipes]
    print_table("", ("recipe", "target", "space", "data", "what"), rows)


@app.command("show")
def show_command(
    recipe: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped recipe, or a .yaml file.")],
    as_json: JsonFlag = False,
) -> None:
    """Show (and check) a recipe with every default filled in. Example: tvmfbnet recipe show demo --json."""
    from tvmfbnet.pipeline.recipe import load_recipe

    content = load_recipe(recipe)[1].model_dump(mode="json")
    if as_json:
        print_json(content)
        return
    import yaml

    print(yaml.safe_dump(content, sort_keys=False), end="")


@app.command("new")
def new_command(
    like: Annotated[str, typer.Option(help="The recipe whose settings it begins with.")] = "demo",
    target: Annotated[str | None, typer.Option(help="Target: a name or a .yaml file.")] = None,
    space: Annotated[str | None, typer.Option(help=SPACE_HELP)] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
) -> None:
    """Print a recipe with a comment for every setting, to redirect into a file and edit.

    Example: tvmfbnet recipe new --like demo --target rpi4
    """
    from tvmfbnet.pipeline.recipe import Recipe, load_recipe
    from tvmfbnet.settings import commented_yaml

    chosen = load_recipe(like)[1].model_dump(mode="json", exclude_unset=True)
    given = {name: value for name, value in (("target", target), ("space", space), ("data", data)) if value}
    chosen |= given
    if given:
        chosen["description"] = f"a net of {chosen['space']} for {chosen['data']} on {chosen['target']}"
    print("# Edit target, space and data; all else may stay. Lines that are commented out show a setting's default.")
    print("# Run it: tvmfbnet run FILE.yaml")
    print(commented_yaml(Recipe, chosen), end="")
