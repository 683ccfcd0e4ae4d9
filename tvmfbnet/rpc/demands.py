"""A target's requirements on its device (threads, cores, model and dtype), checked in every session.

A server with a different thread count than the target's would report latencies of a different setup, so it is refused
before anything runs. Facts that a server does not report (TVM's own does not) cannot be checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tvmfbnet.machine import parse_cores


class UnfitDeviceError(Exception):
    """The device does not meet the target's requirements: one line that names both sides."""


@dataclass(frozen=True)
class Demands:
    """Requirements on a device.

    Attributes:
        threads: of its server; 0 for any.
        cores: of its server, such as ``4-7``; empty for any.
        model: of the device; empty for any.
        dtype: in which its kernels compute.
        opencl_extension: that its driver needs for the dtype; empty for none.
    """

    threads: int = 0
    cores: str = ""
    model: str = ""
    dtype: str = ""
    opencl_extension: str = ""

    def check(self, facts: Mapping[str, str], key: str) -> None:
        """Checks the facts that a device reports.

        Args:
            facts: from :func:`tvmfbnet.rpc.device_facts.device_facts`.
            key: that the device serves, for messages.

        Raises:
            UnfitDeviceError: a requirement is not met; names both sides and what to do.
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
            other = model or "one that does not report its model"
            raise UnfitDeviceError(
                f"key {key} is served by different devices, {self.model} and {other};"
                " give each model a key of its own, so that their times do not mix"
            )

    def check_extensions(self, extensions: Collection[str], key: str) -> None:
        """Checks what an OpenCL device's driver says about itself.

        Args:
            extensions: from :func:`tvmfbnet.rpc.device_facts.opencl_extensions`; without any, nothing can be checked.
            key: that the device serves, for messages.

        Raises:
            UnfitDeviceError: the driver lacks what the dtype needs.
        """
        if self.opencl_extension and extensions and self.opencl_extension not in extensions:
            raise UnfitDeviceError(
                f"the OpenCL driver of {key} has no {self.opencl_extension}, so it runs no kernel in {self.dtype}; "
                "choose another dtype, such as float32"
            )


def _same_cores(reported: str, asked: str) -> bool:
    try:
        return set(parse_cores(reported)) == set(parse_cores(asked))
    except ValueError:  # a device may report anything
        return False
