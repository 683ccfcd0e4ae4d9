"""Reads off a module what it computes: every convolution and matrix product that torch's dispatcher is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tvmfbnet.space.convs import Conv

_ATEN = torch.ops.aten


class ConvTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, collects what runs, in order, for a batch of one image: exact in MACs, whatever the module is.

    A product of (M, K) and (K, N) is a 1x1 conv from K to N channels on M pixels, a batch of products one with groups.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convs: list[Conv] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs one operator, and notes it where it multiplies by weights or activations."""
        result = func(*args, **(kwargs or {}))
        read = _READERS.get(func)
        if read is not None:
            self.convs.append(read(args, result))
        return result


def _convolution(args: Sequence[Any], result: torch.Tensor) -> Conv:
    x, weight, transposed, groups = args[0], args[1], bool(args[6]), int(args[8])
    inside, outside = [_image(tensor) for tensor in (x, result)]
    if transposed:  # each input pixel meets the whole kernel
        cin, cout, taps, pixels, stride = (
            int(weight.shape[0]),
            int(result.shape[1]),
            weight.shape[2:].numel(),
            inside,
            1,
        )
    else:
        cin, cout, taps, pixels = int(x.shape[1]), int(weight.shape[0]), weight.shape[2:].numel(), outside
        stride = int(args[3][0])
    side = round(taps**0.5)
    if side * side != taps:  # 1x7: as a 1x1 conv of as many weights
        cin, side = cin * taps, 1
    kind = "depthwise" if groups > 1 and groups == int(x.shape[1]) else "pointwise" if taps == 1 else "dense"
    if not transposed and tuple(ceil(size / stride) for size in inside) == outside:
        return Conv(kind, cin, cout, side, groups, stride, *inside, False)
    return Conv(kind, cin, cout, side, groups, 1, *pixels, False)


def _image(tensor: torch.Tensor) -> tuple[int, int]:
    """Height and width; of a sequence its length and 1, of a volume all but the last."""
    sizes = [int(size) for size in tensor.shape[2:]]
    return (sizes[0], 1) if len(sizes) == 1 else (torch.Size(sizes[:-1]).numel(), sizes[-1])


def _product(left: torch.Tensor, right: torch.Tensor) -> Conv:
    batch = int(left.shape[0]) if left.dim() == 3 else 1
    rows, inner, columns = int(left.shape[-2]), int(left.shape[-1]), int(right.shape[-1])
    kind = "linear" if rows == 1 and batch == 1 else "pointwise"
    return Conv(kind, inner * batch, columns * batch, 1, batch, 1, rows, 1, False)


_READERS: dict[Any, Callable[[Sequence[Any], torch.Tensor], Conv]] = {
    _ATEN.convolution.default: _convolution,
    _ATEN.mm.default: lambda args, _: _product(args[0], args[1]),
    _ATEN.bmm.default: lambda args, _: _product(args[0], args[1]),
    _ATEN.addmm.default: lambda args, _: _product(args[1], args[2]),
    _ATEN.baddbmm.default: lambda args, _: _product(args[1], args[2]),
}
