"""The measurement passes of whole nets, each on disk before the next one starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tvmfbnet.files import digest
from tvmfbnet.latency.passes import PassLog
from tvmfbnet.profiling.canary import HonestTiming
from tvmfbnet.profiling.device_timer import ChainTiming


class NetPasses:
    """Passes over whole nets in one log, including those of an earlier run that was killed.

    Args:
        log: where they are written.
        shared: what the passes must share to be pooled (kernels, versions, timing policy); others are ignored.

    Attributes:
        speed_archs: the nets whose blocks give the device's speed factor meanwhile, as canonical arch strings.
    """

    def __init__(self, log: PassLog, shared: Mapping[str, Any]) -> None:
        self._log, self._run = log, digest(shared)
        self._nets: dict[str, list[HonestTiming]] = {}
        self._speed: list[ChainTiming] = []
        self.speed_archs: list[str] = []
        for line in log.runs().get(self._run, []):
            with suppress(KeyError, TypeError, ValueError):  # a damaged pass is measured again
                if "net" in line:
                    self._nets.setdefault(line["net"], []).append(HonestTiming.from_dict(line["timing"]))
                elif "pace" in line:
                    self._speed.append(ChainTiming.from_dict(line["pace"]))
                    self.speed_archs = list(line["archs"])

    def of(self, arch: str) -> list[HonestTiming]:
        """The passes over one net so far."""
        return self._nets.get(arch, [])

    def speed_passes(self) -> list[ChainTiming]:
        """The passes over ``speed_archs`` that an earlier run made."""
        return self._speed

    def add(self, arch: str, timing: HonestTiming) -> None:
        """Records a pass over one net."""
        self._log.append(self._run, {"net": arch, "timing": timing.to_dict()})
        self._nets.setdefault(arch, []).append(timing)

    def add_speed_pass(self, timing: ChainTiming) -> None:
        """Records a pass over ``speed_archs``."""
        self._log.append(self._run, {"pace": timing.to_dict(), "archs": self.speed_archs})

    def mark_recorded(self, arch: str) -> None:
        """Drops the passes of a net whose measurement is in the journal."""
        self._log.drop(self._run, lambda record: record.get("net") == arch)

    def finish(self) -> None:
        """Drops the run once every net is in the journal; passes over nets not asked for this time stay."""
        if not any("net" in line for line in self._log.runs().get(self._run, [])):
            self._log.drop(self._run)
