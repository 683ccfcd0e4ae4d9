"""Images of a net's data set that compiling in another dtype than float32 needs; nothing where the dtype needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target

if TYPE_CHECKING:
    import numpy.typing as npt

    from tvmfbnet.deploy.parity import LabelledImages


def images_to_compare(data: str, space: Space, target: Target) -> LabelledImages | None:
    """Test images to compare the answers to, where the dtype may change them and the data is there.

    Args:
        data: spec of the data set.
        space: the net's.
        target: says the dtype.
    """
    if target.dtype == FLOAT32.name:
        return None
    from tvmfbnet.data.sample import sample_images
    from tvmfbnet.deploy.parity import LabelledImages

    sampled = sample_images(data, space.height, space.width, space.input_channels, space.classes)
    return None if sampled is None else LabelledImages(*sampled)


def images_to_calibrate(data: str, space: Space, target: Target) -> list[npt.NDArray[Any]]:
    """Training images to calibrate a quantised net with; arguments as for :func:`images_to_compare`.

    Raises:
        UserError: the data is not there.
    """
    if not target.data_type.is_quantised:
        return []
    from tvmfbnet.data.sample import calibration_images

    return calibration_images(data, space.height, space.width, space.input_channels, space.classes)
