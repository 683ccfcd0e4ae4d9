"""The interface between the engine and its schedule searches: a candidate, and what every search can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo, TensorInfo

from tvmfbnet.autotune.half_sums import OutputReference
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.machines import AnyKnobs
from tvmfbnet.rpc.session import Arguments, KernelTiming


@dataclass(frozen=True)
class ScheduleCandidate:
    """One schedule to build and time.

    Attributes:
        schedule: the scheduled kernel with its trace; None where scheduling failed.
        arguments: (dtype, shape) of each argument; weights as the schedule prepacks them.
        knobs: the knobs of a template schedule.
        error: why there is no schedule.
        reference: what its output must be close to, where its sums are narrowed; None where nothing needs a check.
    """

    schedule: Schedule | None
    arguments: Arguments = ()
    knobs: AnyKnobs | None = None
    error: str = ""
    reference: OutputReference | None = None

    @classmethod
    def of(
        cls, schedule: Schedule, knobs: AnyKnobs | None = None, reference: OutputReference | None = None
    ) -> ScheduleCandidate:
        """A candidate from a finished schedule."""
        arguments = tuple(_argument(info) for info in argument_infos(schedule))
        return cls(schedule, arguments, knobs, reference=reference)

    @property
    def mod_json(self) -> str:
        """The scheduled kernel's TIR as JSON, to send to a builder."""
        if self.schedule is None:
            raise ValueError("a candidate without a schedule cannot be built")
        return str(tvm.ir.save_json(self.schedule.mod))


def argument_infos(schedule: Schedule) -> list[Any]:
    """TVM's record of a scheduled kernel's arguments."""
    return list(ArgInfo.from_entry_func(schedule.mod, remove_preproc=True))


def _argument(info: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(info, TensorInfo):
        raise TypeError(f"kernel argument {info} is not a tensor")
    return str(info.dtype), tuple(int(size) for size in info.shape)


class Search(Protocol):
    """Proposes schedules for one kernel and learns from their timings."""

    @property
    def shape(self) -> KernelShape | None:
        """What the kernel computes; None where no template fits it."""

    def propose(self, most: int | None = None) -> Sequence[ScheduleCandidate]:
        """The next round of candidates, ``most`` at most; empty when there are none left."""

    def learn(self, timings: Sequence[KernelTiming]) -> None:
        """Takes the timings of the last round, in the same order."""

    def promised_ms(self) -> float | None:
        """Predicted time of the best untried candidate; None where the search cannot predict it."""
