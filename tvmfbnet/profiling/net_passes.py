"""The visits of whole nets that are being timed, each on the disk before the next is made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tvmfbnet.latency.passes import VisitLog, run_key
from tvmfbnet.profiling.canary import HonestTiming
from tvmfbnet.profiling.device_timer import ChainTiming


class NetVisits:
    """Visits of whole nets in one log, those of an earlier run that was killed included.

    Args:
        log: where they are written.
        shared: what they have in common; visits of other kernels, versions or policies are others'.

    Attributes:
        pace_archs: the nets whose blocks tell the device's pace meanwhile, as canonical arch strings.
    """

    def __init__(self, log: VisitLog, shared: Mapping[str, Any]) -> None:
        self._log, self._run = log, run_key(shared)
        self._nets: dict[str, list[HonestTiming]] = {}
        self._pace: list[ChainTiming] = []
        self.pace_archs: list[str] = []
        for line in log.runs().get(self._run, []):
            with suppress(KeyError, TypeError, ValueError):  # a damaged visit is made again
                if "net" in line:
                    self._nets.setdefault(line["net"], []).append(HonestTiming.from_dict(line["timing"]))
                elif "pace" in line:
                    self._pace.append(ChainTiming.from_dict(line["pace"]))
                    self.pace_archs = list(line["archs"])

    def of(self, arch: str) -> list[HonestTiming]:
        """The visits of one net so far."""
        return self._nets.get(arch, [])

    def pace(self) -> list[ChainTiming]:
        """The visits of ``pace_archs`` so far."""
        return self._pace

    def add(self, arch: str, timing: HonestTiming) -> None:
        """Writes down a visit of one net."""
        self._log.append(self._run, {"net": arch, "timing": timing.to_dict()})
        self._nets.setdefault(arch, []).append(timing)

    def add_pace(self, timing: ChainTiming) -> None:
        """Writes down a visit of the nets that tell the pace."""
        self._log.append(self._run, {"pace": timing.to_dict(), "archs": self.pace_archs})

    def recorded(self, arch: str) -> None:
        """The journal holds what a net's visits say."""
        self._log.drop(self._run, lambda visit: visit.get("net") == arch)

    def finish(self) -> None:
        """The journal holds what all of them say; visits of nets that were not asked for now stay."""
        left = any("net" in line for line in self._log.runs().get(self._run, []))
        if not left:
            self._log.drop(self._run)
