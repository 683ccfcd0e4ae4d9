"""What a training or a search is given, checked before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.data.places import check_data
from tvmfbnet.preflight import check_all, require_writable_folder
from tvmfbnet.space.space import Space


def check_inputs(space: Space, data: str, folder: Path, device: str) -> None:
    """Tells all that is wrong at once.

    Args:
        space: whose images and classes the data must have.
        data: the data set's spec.
        folder: to write to.
        device: where torch computes.

    Raises:
        UserError: the data set is missing or does not fit, the folder is not writable, or torch has no such device.
    """
    check_all(
        lambda: check_data(data, space.height, space.width, space.input_channels, space.classes),
        lambda: require_writable_folder(folder),
        lambda: require_torch_device(device),
    )


def require_torch_device(name: str) -> None:
    """UserError where torch has no such device here; the usual ones need no look, which loads torch."""
    if name not in ("auto", "cpu"):
        from tvmfbnet.training.device import pick_device

        pick_device(name)
