"""The settings of quantisation: a recipe's ``quantisation`` section."""

from __future__ import annotations

from pydantic import Field

from tvmfbnet.config import MOST_EPOCHS, Config
from tvmfbnet.dtypes import DType
from tvmfbnet.errors import UserError


class QuantisationConfig(Config):
    """How a trained net becomes an int8 one, besides calibration."""

    fine_tune_epochs: int = Field(
        0,
        ge=0,
        le=MOST_EPOCHS,
        description="passes over the training images with rounded weights and activations; kept if held-out training "
        "images get better by it",
    )
    fine_tune_lr: float = Field(
        0.002, gt=0, le=100, description="learning rate of these at first; a cosine leads it to zero"
    )

    def require_quantised(self, dtype: DType, target: str, mixed: bool = False) -> None:
        """UserError where there is something to fine-tune, and not the whole net is quantised.

        Args:
            dtype: of the target.
            target: its name.
            mixed: whether some of the net stays in float32.
        """
        if self.fine_tune_epochs and mixed:
            raise UserError(
                f"fine_tune_epochs is {self.fine_tune_epochs}, and fine-tuning rounds the whole net: leave it out with "
                "mixed dtypes, or take dtype int8"
            )
        if self.fine_tune_epochs and not dtype.is_quantised:
            raise UserError(
                f"fine_tune_epochs is {self.fine_tune_epochs}, and target {target} computes in {dtype.name}, which "
                "needs no fine-tuning: leave it out, or take dtype int8"
            )
