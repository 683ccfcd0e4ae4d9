"""How long a search would take on one GPU, where there is none: its multiply-accumulates at a stated rate.

An estimate, not a measurement. The usual rate is what the FBNet paper's own search amounts to: its 216 GPU-hours for 90
epochs of ``fbnet`` on 100 classes of ImageNet are 5.5e16 multiply-accumulates by this module's count. That is far below
what a GPU can multiply, as these nets wait for memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvmfbnet.durations import spell_seconds
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.plan import BACKWARD, SearchPlan
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.space import Space

# Multiply-accumulates per second, in units of 1e12.
PAPER_TMACS = 0.07


@dataclass(frozen=True)
class GpuEstimate:
    """An estimate of the time on one GPU.

    Attributes:
        macs: of the whole search.
        tmacs: the rate it is computed with, in 1e12 multiply-accumulates per second.
        given: whether a user gave the rate.
    """

    macs: float
    tmacs: float
    given: bool

    @property
    def seconds(self) -> float:
        """Of the whole search."""
        return self.macs / (1e12 * self.tmacs)

    def describe(self) -> str:
        """One line, which says that it is no measurement."""
        basis = "the rate given" if self.given else "the rate of the FBNet paper's 216 GPU-hours (--gpu-tmacs)"
        return (
            f"one GPU: about {spell_seconds(self.seconds)}, estimated, not measured: {self.macs:.2g} "
            f"multiply-accumulates at {self.tmacs:g}e12 per second, {basis}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"macs": self.macs, "tmacs_per_second": self.tmacs, "estimated_seconds": self.seconds}


def estimate_gpu(space: Space, config: SearchConfig, plan: SearchPlan, tmacs: float | None = None) -> GpuEstimate:
    """The estimate for the work of ``plan``.

    Args:
        space: what would be searched.
        config: says in which form steps are taken.
        plan: the work.
        tmacs: the rate, in 1e12 multiply-accumulates per second; that of the paper's search if None.
    """
    single = _macs_per_image(space, "sampled")
    theta_form: Form = "sampled" if config.theta_steps == "fitted" else config.theta_steps
    weight_macs, theta_macs = _macs_per_image(space, config.weight_steps), _macs_per_image(space, theta_form)
    trained = (plan.warmup_steps * plan.warmup_paths + plan.finalist_steps) * plan.batch * single
    trained += plan.weight_steps * plan.weight_paths * plan.batch * weight_macs
    trained += plan.theta_steps * plan.theta_paths * (plan.theta_batch or plan.batch) * theta_macs
    macs = BACKWARD * trained + plan.judged_images * single
    return GpuEstimate(macs, PAPER_TMACS if tmacs is None else tmacs, tmacs is not None)


def _macs_per_image(space: Space, form: Form) -> float:
    """Of one forward pass; where one or two blocks of a layer run, of blocks that are equally likely."""
    fixed = sum(count_part(part).macs for part in space.fixed_parts())
    total = float(fixed)
    for layer in space.layers:
        macs = [count_part(layer.cell(block)).macs for block in layer.blocks]
        total += sum(macs) * (1.0 if form == "mixture" else (2.0 if form == "two_path" else 1.0) / len(macs))
    return total
