"""``tvmfbnet spaces``: what search spaces there are and what is in one."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table

app = typer.Typer(
    help="Search spaces: list the shipped ones, show one (or check a file of your own).", no_args_is_help=True
)


@app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the shipped search spaces. Example: tvmfbnet spaces list."""
    from tvmfbnet.space.registry import list_spaces, load_space

    spaces = [load_space(name) for name in list_spaces()]
    if as_json:
        print_json([{"name": space.name, "description": space.description} for space in spaces])
        return
    rows = [(space.name, len(space.layers), f"{space.size:.3g}", space.description) for space in spaces]
    print_table("", ("space", "layers", "archs", "what"), rows)


@app.command("show")
def show_command(
    space: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped space, or a .yaml file.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a search space, layer by layer. Example: tvmfbnet spaces show fbnet_mini --json."""
    from dataclasses import asdict

    from tvmfbnet.space.counts import distinct_convs
    from tvmfbnet.space.registry import load_space

    found = load_space(space)
    blocks, convs = len(found.distinct_blocks()), len(distinct_convs(found))
    if as_json:
        print_json(
            {
                "name": found.name,
                "description": found.description,
                "input": {"channels": found.input_channels, "height": found.height, "width": found.width},
                "classes": found.classes,
                "stem": {"channels": found.stem_channels, "stride": found.stem_stride},
                "last_channels": found.last_channels,
                "layers": [asdict(layer) for layer in found.layers],
                "size": found.size,
                "distinct_blocks": blocks,
                "distinct_convs": convs,
            }
        )
        return
    rows = [
        (
            item.index,
            item.stage,
            f"{item.cin} -> {item.cout}",
            f"{item.height}x{item.width}",
            item.stride,
            " ".join(item.blocks),
        )
        for item in found.layers
    ]
    title = f"{found.name}: {found.description}".rstrip(": ")
    print_table(title, ("layer", "stage", "channels", "input", "stride", "blocks"), rows)
    print(f"{found.size:,} archs of {blocks} distinct blocks ({convs} distinct fused convs)")
