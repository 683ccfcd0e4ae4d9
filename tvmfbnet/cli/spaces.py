"""``tvmfbnet spaces``: list search spaces and show one."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table

app = typer.Typer(
    help="Search spaces: list the shipped ones, show one (or check a file of your own), begin a new one.",
    no_args_is_help=True,
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

    loaded = load_space(space)
    blocks, convs = len(loaded.distinct_blocks()), len(distinct_convs(loaded))
    if as_json:
        print_json(
            {
                "name": loaded.name,
                "description": loaded.description,
                "input": {"channels": loaded.input_channels, "height": loaded.height, "width": loaded.width},
                "classes": loaded.classes,
                "stem": {"channels": loaded.stem_channels, "stride": loaded.stem_stride},
                "last_channels": loaded.last_channels,
                "layers": [asdict(layer) for layer in loaded.layers],
                "size": loaded.size,
                "distinct_blocks": blocks,
                "distinct_convs": convs,
            }
        )
        return
    sets = {blocks: number for number, blocks in enumerate(dict.fromkeys(item.blocks for item in loaded.layers), 1)}
    rows = []
    for item in loaded.layers:
        shape = (f"{item.cin} -> {item.cout}", f"{item.height}x{item.width}", item.stride)
        rows.append((item.index, item.stage, *shape, sets[item.blocks]))
    title = f"{loaded.name}: {loaded.description}".rstrip(": ")
    print_table(title, ("layer", "stage", "channels", "input, pixels", "stride", "block set"), rows)
    for blocks_of_set, number in sets.items():
        print(f"block set {number}: {' '.join(blocks_of_set)}")
    print(f"{loaded.size:,} archs of {blocks} distinct blocks ({convs} distinct fused convs)")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``64`` or ``64x48``; BadParameter otherwise."""
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (1 <= height <= 16384 and 1 <= width <= 16384):
        raise typer.BadParameter(f"{text!r} is no image size: write 64, or 64x48 for height x width")
    return height, width


@app.command("new")
def new_command(
    classes: Annotated[int, typer.Option(min=2, max=1_000_000, help="Classes to tell apart.")],
    size: Annotated[str, typer.Option(help="Image size in pixels: 64, or 64x48 for height x width.")],
    channels: Annotated[int, typer.Option(min=1, max=1024, help="Channels of the images: 1 greyscale, 3 colour.")] = 3,
) -> None:
    """Print a commented space file for your images, to redirect into a file and edit.

    Example: tvmfbnet spaces new --classes 3 --size 64 --channels 3
    """
    from tvmfbnet.space.starter import starter_space

    height, width = parse_size(size)
    print(starter_space(classes, height, width, channels), end="")
