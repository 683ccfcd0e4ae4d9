"""Registers blocks of a user's own, and reads off what they compute: their convs, for counts and latency features.

A block is built without memory (torch's ``meta`` device) and run once for each shape that it may take, while torch's
dispatcher tells every convolution and matrix product. So counts need no words of the user's, and cannot disagree with
the module.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tvmfbnet.errors import ArchError, UserError
from tvmfbnet.files import read_text
from tvmfbnet.nets.conv_trace import ConvTrace
from tvmfbnet.space.block_source import SourceFile
from tvmfbnet.space.blocks import SKIP, shipped_block
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.own_blocks import NAME, OwnBlock, register
from tvmfbnet.space.space import NetPart

BuilderT = TypeVar("BuilderT", bound=Callable[..., nn.Module])


def block(name: str, *, kernel: int = 1, expansion: int = 1, groups: int = 1) -> Callable[[BuilderT], BuilderT]:
    """Registers a block of your own under a name that search spaces may list as a candidate.

    Decorates a class or function that makes its module from ``(cin, cout, stride)``. The module maps (N, cin, H, W) to
    (N, cout, ceil(H / stride), ceil(W / stride)), keeps its own initialisation, and consists of operators that
    ``torch.onnx.export`` knows. A space lists it only for layers where it can be built: the builder may refuse others
    by raising ``ValueError``. Parameters and MACs are counted from the module. Batch norms that directly follow a conv
    in an ``nn.Sequential`` are folded into it, others where the module names both in an attribute
    ``FOLDED = (("conv", "bn"),)``.

    Args:
        name: lower-case letters, digits and ``_``; not the name of a shipped block.
        kernel: side of its largest kernel, for figures and for models of accuracy; odd.
        expansion: channels inside as a multiple of the input's, for the same.
        groups: input and output channels must be multiples of it.

    Raises:
        UserError: the name is taken or malformed, or the source is in no file.

    Example:
        >>> import tvmfbnet as tf
        >>> from my_blocks import ConvTanh  # decorated with @tf.block("conv_tanh", kernel=3)
        >>> space = tf.Space.load("own.yaml")  # which has it among its blocks
        >>> tf.parse_arch("conv_tanh/conv_tanh", space).blocks[0].split("@")[0]
        'conv_tanh'
    """
    if not NAME.fullmatch(name) or name == SKIP or shipped_block(name) is not None:
        raise UserError(
            f"bad name {name!r} of a block: up to 40 lower-case letters, digits and '_', a letter first, and no name "
            "of shipped blocks"
        )
    if kernel < 1 or kernel % 2 == 0 or expansion < 1 or groups < 1:
        raise UserError(f"block {name}: kernel is odd, and kernel, expansion and groups are at least 1")

    def registered(builder: BuilderT) -> BuilderT:
        register(OwnBlock(name, builder, _traced, _source_of(builder, name), kernel, expansion, groups))
        return builder

    return registered


def build_own(spec: OwnBlock, cin: int, cout: int, stride: int) -> nn.Module:
    """The module of an own block; :class:`ArchError` where its builder fails or gives no module."""
    try:
        module = spec.build(cin, cout, stride)
    except (Exception, SystemExit) as error:
        raise ArchError(f"block {spec.label} of {cin} to {cout} channels, stride {stride}: {_told(error)}") from error
    if not isinstance(module, nn.Module):
        raise ArchError(f"block {spec.label}: its builder gives {type(module).__name__}, not a torch.nn.Module")
    return module


def randomise_constants(module: nn.Module) -> None:
    """Gives parameters of one value, such as biases of 0 and scales of 1, random ones from 0.5 to 1.5, in place.

    For modules that are only timed or compared: exporters drop what multiplies by 1 or adds 0, and a trained block has
    neither.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.uniform_(0.5, 1.5)


def _source_of(builder: Callable[..., Any], name: str) -> SourceFile:
    """The file that defines a builder, as it is now."""
    target = inspect.unwrap(builder)
    target = getattr(target, "func", target)  # of functools.partial
    try:
        path = Path(inspect.getsourcefile(target) or "").resolve()
    except TypeError:
        path = Path()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"block {name}: its source is in no .py file; the identity of a block is that of its file")
    package = str(getattr(sys.modules.get(getattr(target, "__module__", "")), "__package__", "") or "")
    return SourceFile(path, read_text(path), package)


@lru_cache(maxsize=4096)
def _traced(spec: OwnBlock, part: NetPart) -> tuple[Conv, ...]:
    try:
        convs, shape, weights = _run(spec, part, "meta")
    except Exception:  # what reads values while it is built or run cannot do without memory
        with torch.random.fork_rng(devices=[]):
            convs, shape, weights = _told_run(spec, part)
    wanted = (1, part.cout, part.out_height, part.out_width)
    if shape != wanted:
        raise ArchError(f"block {spec.label} as {part.name} gives {list(shape)} where {list(wanted)} is wanted")
    if weights and not convs:
        raise ArchError(f"block {spec.label} has weights, but no convolution, linear layer or matrix product")
    return tuple(replace(conv, learnable=0 if index else weights) for index, conv in enumerate(convs))


def _told_run(spec: OwnBlock, part: NetPart) -> tuple[list[Conv], tuple[int, ...], int]:
    try:
        return _run(spec, part, "cpu")
    except ArchError:
        raise
    except (Exception, SystemExit) as error:
        raise ArchError(f"block {spec.label} as {part.name}: {_told(error)}") from error


def _run(spec: OwnBlock, part: NetPart, device: str) -> tuple[list[Conv], tuple[int, ...], int]:
    """The convs of a block in a part, the shape that it gives, and its number of weights."""
    with torch.device(device), torch.no_grad():
        module = build_own(spec, part.cin, part.cout, part.stride)
        x = torch.zeros(1, part.cin, part.height, part.width)
        with sdpa_kernel(SDPBackend.MATH), ConvTrace() as trace:
            y = module(x)
    if not isinstance(y, torch.Tensor):
        raise ArchError(f"block {spec.label} gives {type(y).__name__}, not one tensor")
    return trace.convs, tuple(y.shape), sum(parameter.numel() for parameter in module.parameters())


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
