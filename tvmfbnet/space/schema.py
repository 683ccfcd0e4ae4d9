"""The form of a search space file (YAML), checked whole before anything is built from it.

A space file names the input, the stem, the stages (channels, layers, stride of the first layer) and the candidate
blocks; shapes of all layers follow from these. The shipped files in ``definitions/`` are the documentation by example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from tvmfbnet.config import Config, validate
from tvmfbnet.errors import ArchError
from tvmfbnet.space.blocks import FBNET_BLOCKS, canonical_block, parse_block
from tvmfbnet.space.space import Layer, Space


def _block(name: str) -> str:
    try:
        return canonical_block(name)
    except ArchError as error:
        raise ValueError(str(error)) from error


def _no_duplicates(blocks: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({block for block in blocks if blocks.count(block) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} listed more than once")
    return blocks


BlockName = Annotated[str, AfterValidator(_block)]
Candidates = Annotated[tuple[BlockName, ...], Field(min_length=1), AfterValidator(_no_duplicates)]
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
    """Some layers of equal width; the first one changes the channels and takes the stride, the others keep both."""

    channels: Channels
    layers: Annotated[int, Field(ge=1, le=1000)]
    stride: Stride = 1
    blocks: Candidates | None = None


class SpaceConfig(Config):
    """A search space as written in YAML. ``blocks`` are the candidates of every stage that names none of its own."""

    description: str = ""
    input: InputConfig
    classes: PositiveInt
    stem: StemConfig
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    blocks: Candidates = FBNET_BLOCKS
    last_channels: Channels

    @model_validator(mode="after")
    def _check_shapes(self) -> SpaceConfig:
        problems = list(dict.fromkeys(_shape_problems(self)))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _shape_problems(config: SpaceConfig) -> Iterator[str]:
    """What is wrong with the layers that the stages make: grouped convs that do not divide, strides past the end."""
    for layer in _layers(config):
        for name in layer.blocks:
            spec = parse_block(name)
            if spec is not None and (layer.cin % spec.groups or layer.cout % spec.groups):
                yield (
                    f"stages.{layer.stage}: block {name} splits channels into {spec.groups} groups, which does not "
                    f"divide its {layer.cin} input and {layer.cout} output channels"
                )
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
            yield Layer(index, number, cin, stage.channels, height, width, stride, stage.blocks or config.blocks)
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            cin, index = stage.channels, index + 1


def build_space(value: Any, name: str, where: str) -> Space:
    """Makes a space of the plain data of a space file.

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
    )
