"""The form of a search space file (YAML), validated as a whole before anything is built from it.

A space file names the input, the stem, the stages (channels, layers, stride of the first layer) and the candidate
blocks; shapes of all layers follow from these. The shipped files in ``definitions/`` are the documentation by example.

Candidates may be written out (``blocks: [k3_e1, skip]``) or as a product (``blocks: {kernels: [3, 5], expansions: [3,
6], squeeze_excite: [false, true], skip: true}``), for the whole space, for a stage, or for each layer of a stage.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from tvmfbnet.config import Config, problems_of, validate
from tvmfbnet.errors import ArchError, listed
from tvmfbnet.space.blocks import FBNET_BLOCKS, SKIP, BlockSpec, canonical_block, parse_block
from tvmfbnet.space.convs import RELU
from tvmfbnet.space.own_blocks import OwnBlock
from tvmfbnet.space.space import Layer, Space


def _block(name: str) -> str:
    try:
        return canonical_block(name)
    except ArchError as error:
        raise ValueError(str(error)) from error


# Far beyond what could be searched or measured; with them a file is checked in a second.
MOST_CANDIDATES = 1000
MOST_LAYERS = 1000
MOST_CELLS = 100_000

Some = Field(min_length=1, max_length=100)
Small = Annotated[int, Field(ge=1, le=99)]
Groups = Annotated[int, Field(ge=1, le=999)]


class BlockProduct(Config):
    """All blocks with one of the kernels, one of the expansions and so on; ``skip`` last."""

    kernels: Annotated[tuple[Small, ...], Some]
    expansions: Annotated[tuple[Small, ...], Some]
    groups: Annotated[tuple[Groups, ...], Some] = (1,)
    squeeze_excite: Annotated[tuple[bool, ...], Some] = (False,)
    activations: Annotated[tuple[str, ...], Some] = (RELU,)
    skip: bool = False

    @model_validator(mode="after")
    def _not_too_many(self) -> BlockProduct:
        lists = (self.kernels, self.expansions, self.groups, self.squeeze_excite, self.activations)
        count = math.prod(len(values) for values in lists)
        if count > MOST_CANDIDATES:
            raise ValueError(f"these are {count} blocks; a layer may have {MOST_CANDIDATES} candidates")
        return self

    def names(self) -> list[str]:
        """The blocks' names; parsing them as blocks finds invalid ones."""
        values = itertools.product(self.activations, self.squeeze_excite, self.kernels, self.expansions, self.groups)
        specs = (BlockSpec(kernel, expansion, groups, se, act) for act, se, kernel, expansion, groups in values)
        return [*(spec.name for spec in specs), *([SKIP] if self.skip else [])]


def _spelled_out(value: Any) -> Any:
    """Expands a product of kernels, expansions and so on to the list of its blocks; leaves anything else unchanged."""
    if not isinstance(value, dict):
        return value
    try:
        return BlockProduct.model_validate(value).names()
    except ValidationError as error:
        raise ValueError(listed(problems_of(error))) from error


def _no_duplicates(blocks: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted(block for block, count in Counter(blocks).items() if count > 1)
    if twice:
        named = ", ".join(twice[:8]) + (", ..." if len(twice) > 8 else "")
        raise ValueError(f"{named} listed more than once")
    return blocks


BlockName = Annotated[str, AfterValidator(_block)]
Candidates = Annotated[
    tuple[BlockName, ...],
    Field(min_length=1, max_length=MOST_CANDIDATES),
    BeforeValidator(_spelled_out),
    AfterValidator(_no_duplicates),
]
Stride = Annotated[int, Field(ge=1, le=4)]
# Generous bounds: they only keep a slip of the keyboard from asking for a net that no machine could hold.
Channels = Annotated[int, Field(ge=1, le=65536)]
Pixels = Annotated[int, Field(ge=1, le=16384)]


class InputConfig(Config):
    """The image a net takes: channels, and size in pixels."""

    channels: Channels
    height: Pixels
    width: Pixels


class StemConfig(Config):
    """The fixed 3x3 conv in front: its output channels and stride."""

    channels: Channels
    stride: Stride = 2


class StageConfig(Config):
    """Some layers of equal width; the first one changes the channels and takes the stride, the others keep both.

    ``layer_blocks`` gives single layers, counted from 0 within the stage, candidates of their own.
    """

    channels: Channels
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    stride: Stride = 1
    blocks: Candidates | None = None
    layer_blocks: dict[Annotated[int, Field(ge=0, lt=MOST_LAYERS)], Candidates] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layers_exist(self) -> StageConfig:
        odd = sorted(number for number in self.layer_blocks if not 0 <= number < self.layers)
        if odd:
            numbers = ", ".join(map(str, odd))
            raise ValueError(f"layer_blocks names layer {numbers}, but the stage's layers are 0 to {self.layers - 1}")
        return self


class SpaceConfig(Config):
    """A search space as written in YAML. ``blocks`` are the candidates of every stage that names none of its own.

    ``block_files`` are Python files that define blocks (:mod:`tvmfbnet.space.block_files`).
    """

    description: str = ""
    block_files: tuple[str, ...] = ()
    input: InputConfig
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    stem: StemConfig
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    blocks: Candidates = FBNET_BLOCKS
    last_channels: Channels
    head: Literal["classifier", "lraspp", "ssdlite"] = "classifier"

    @model_validator(mode="before")
    @classmethod
    def _one_image(cls, value: Any) -> Any:
        if isinstance(value, dict) and "batch" in value:
            raise ValueError("batch is not supported: nets are compiled for and timed on one image; leave it out")
        return value

    @model_validator(mode="after")
    def _check_shapes(self) -> SpaceConfig:
        layers = sum(stage.layers for stage in self.stages)
        if layers > MOST_LAYERS:
            raise ValueError(f"the stages have {layers} layers in all; a space may have {MOST_LAYERS}")
        cells = sum(len(layer.blocks) for layer in _layers(self))
        if cells > MOST_CELLS:
            raise ValueError(f"the layers have {cells} candidates in all; a space may have {MOST_CELLS}")
        problems = list(dict.fromkeys(_shape_problems(self)))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _shape_problems(config: SpaceConfig) -> Iterator[str]:
    """The faults of the layers that the stages make: grouped convs that do not divide, strides past the end."""
    for layer in _layers(config):
        for name in layer.blocks:
            spec = parse_block(name)
            if spec is not None and (layer.cin % spec.groups or layer.cout % spec.groups):
                yield (
                    f"stages.{layer.stage}: block {name} splits channels into {spec.groups} groups, which does not "
                    f"divide its {layer.cin} input and {layer.cout} output channels"
                )
            elif isinstance(spec, OwnBlock):
                fault = spec.fault(layer.cell(name))
                if fault is not None:
                    yield f"stages.{layer.stage}: {fault}"
        if layer.stride > min(layer.height, layer.width):
            yield (
                f"stages.{layer.stage}: stride {layer.stride} on {layer.height}x{layer.width} pixels "
                "leaves no image to work on; use fewer or smaller strides, or a larger input"
            )


def _layers(config: SpaceConfig) -> Iterator[Layer]:
    cin = config.stem.channels
    height = math.ceil(config.input.height / config.stem.stride)
    width = math.ceil(config.input.width / config.stem.stride)
    index = 0
    for number, stage in enumerate(config.stages):
        for position in range(stage.layers):
            stride = stage.stride if position == 0 else 1
            blocks = stage.layer_blocks.get(position, stage.blocks or config.blocks)
            yield Layer(index, number, cin, stage.channels, height, width, stride, blocks)
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            cin, index = stage.channels, index + 1


def written_out(space: Space) -> dict[str, Any]:
    """A space as the content of a space file, every layer with candidates of its own."""
    stages = []
    for number in range(len(space.stage_sizes)):
        layers = [layer for layer in space.layers if layer.stage == number]
        blocks = {place: list(layer.blocks) for place, layer in enumerate(layers)}
        stages.append(
            {
                **{"channels": layers[0].cout, "layers": len(layers), "stride": layers[0].stride},
                "layer_blocks": blocks,
            }
        )
    return {
        "description": space.description,
        "input": {"channels": space.input_channels, "height": space.height, "width": space.width},
        "classes": space.classes,
        "stem": {"channels": space.stem_channels, "stride": space.stem_stride},
        "stages": stages,
        "last_channels": space.last_channels,
    }


def build_space(value: Any, name: str, where: str) -> Space:
    """Builds a space from the plain data of a space file.

    Args:
        value: what the YAML file holds.
        name: the name that the space gets.
        where: the file, for messages.

    Raises:
        ConfigError: carries every problem found.
    """
    config = validate(SpaceConfig, value, where)
    return Space(
        name=name,
        input_channels=config.input.channels,
        height=config.input.height,
        width=config.input.width,
        classes=config.classes,
        stem_channels=config.stem.channels,
        stem_stride=config.stem.stride,
        last_channels=config.last_channels,
        layers=tuple(_layers(config)),
        description=config.description,
        head_kind=config.head,
    )
