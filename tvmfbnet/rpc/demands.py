"""What a target demands of the device that it is given: threads, cores and model, checked in every session.

A server that was started with other threads than the target's file says would give times of another machine; so it is
refused before anything runs. What a server does not report (TVM's own does not) cannot be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvmfbnet.machine import parse_cores


class UnfitDeviceError(Exception):
    """The device is not as the target asks: one line that names both."""


@dataclass(frozen=True)
class Demands:
    """What a device must be like.

    Attributes:
        threads: of its server; 0 where they do not matter.
        cores: that its server runs on, such as ``4-7``; any if empty.
        model: of the device; any if empty.
    """

    threads: int = 0
    cores: str = ""
    model: str = ""

    def check(self, facts: Mapping[str, str], key: str) -> None:
        """Compares with what a device reports.

        Args:
            facts: as :func:`tvmfbnet.rpc.device_facts.device_facts` gives them.
            key: that the device serves, for messages.

        Raises:
            UnfitDeviceError: it is not as demanded; names both sides and what to do.
        """
        threads = facts.get("threads", "")
        if self.threads and threads and threads != str(self.threads):
            raise UnfitDeviceError(
                f"the device server of {key} runs with {threads} thread(s), but the target asks for {self.threads}; "
                f"start it with --threads {self.threads}, or set `threads: {threads}` in the target"
            )
        cores = facts.get("allowed_cores", "")
        if self.cores and cores and not _same_cores(cores, self.cores):
            raise UnfitDeviceError(
                f"the device server of {key} runs on cores {cores}, but the target asks for cores {self.cores}; "
                f"start it with --cores {self.cores}, or set `cores: {cores}` in the target"
            )
        model = facts.get("model") or facts.get("cpu_part", "")
        if self.model and model != self.model:
            other = model or "one that does not say what it is"
            raise UnfitDeviceError(
                f"key {key} is served by different devices, {self.model} and {other};"
                " give each model a key of its own, so that their times do not mix"
            )


def _same_cores(reported: str, asked: str) -> bool:
    try:
        return set(parse_cores(reported)) == set(parse_cores(asked))
    except ValueError:  # what a device says may be anything
        return False
