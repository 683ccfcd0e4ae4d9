"""How far an output is from what it must be: the measure of the parity check, of trials and of comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """max |got - expected| / max |expected|; infinite when shapes differ or a value of either side is not finite."""
    if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf")
    # In double precision: differences of large finite values must not overflow.
    wanted = expected.astype(np.float64)
    return float(np.abs(got.astype(np.float64) - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
