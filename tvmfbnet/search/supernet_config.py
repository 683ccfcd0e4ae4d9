"""The settings of how a supernet's weights learn beyond the paper, a part of a recipe's ``search`` section.

``benchmarks/supernet_ranking.py`` measures what each does to how well the supernet ranks archs of one latency.
"""

from __future__ import annotations

from pydantic import Field

from tvmfbnet.config import MOST_STEPS, Config
from tvmfbnet.nets.sampling_modes import PathDraws


class SupernetConfig(Config):
    """How w learns from paths through single blocks, in the warm-up and with ``weight_steps: sampled``."""

    share_weights: bool = Field(
        False, description="the blocks of a layer are parts of the largest one and learn together, in every step"
    )
    weight_paths: PathDraws = Field(
        "theta",
        description="paths that train w: each layer's block drawn by theta (in the warm-up with equal probability); "
        "whole archs within window_share below a constraint; or every block of a layer once before one again",
    )
    window_share: float = Field(
        0.15, gt=0, lt=1, description="how far below a bound the archs of weight_paths and theta_steps may lie"
    )
    step_paths: int = Field(1, ge=1, le=1000, description="such paths in a step, each with the whole batch")
    sandwich: bool = Field(
        False,
        description="the heaviest path learns from the labels besides, the lightest and the drawn ones from its output",
    )
    distil_from: str | None = Field(
        None,
        description="trained net that w and short trainings learn from as much as from the labels: as in a training",
    )
    weight_ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="what a moving average of w, or of a short training's weights, keeps in a step; it then judges "
        "archs; 0: none",
    )
    tune_steps: int = Field(
        0, ge=0, le=MOST_STEPS, description="steps that an arch trains with weights of the supernet before it is judged"
    )
