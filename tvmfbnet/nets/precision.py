"""bfloat16 where it pays, float32 where it must be: autocast for convs and products, never for statistics.

Under autocast a layer's input may be bfloat16, whose eight bits are too few for means, variances and covariances over
many pixels. What computes such figures does so inside :func:`full_precision`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Precision = Literal["float32", "bfloat16"]


def torch_type(name: str) -> torch.dtype:
    """Torch's type of numpy's name for it, such as ``float32``."""
    return torch.from_numpy(np.empty(0, name)).dtype


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which convs and matrix products run in ``precision`` on ``device``; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def precision_on(device: torch.device) -> Precision:
    """The meaning of ``auto`` on a device: bfloat16 on a GPU that supports it, float32 elsewhere."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def is_autocast(x: torch.Tensor) -> bool:
    """Whether autocast is on where ``x`` lies; asked without a device, torch answers for CUDA alone."""
    return torch.is_autocast_enabled(x.device.type)


def full_precision(x: torch.Tensor) -> torch.autocast:
    """A context without autocast, for computations on ``x``."""
    return torch.autocast(x.device.type, enabled=False)


def widened(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32 at least; the same tensor if it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
