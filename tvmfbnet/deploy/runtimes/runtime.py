"""What every runtime can do: say whether it runs on a target, open a net, run one image, time a pass, close.

A runtime is one object in :data:`tvmfbnet.deploy.runtimes.registry.RUNTIMES`. It says why it cannot run on a target
before anything is loaded, and opens a net into a session. A session is timed pass by pass, so that several runtimes can
take turns and a slow spell of the machine affects all of them alike; ``run`` gives the outputs, which are compared
with the package's before a time is believed. ``tests/deploy/test_runtimes.py`` holds every runtime to this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget, Target

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NetFiles:
    """A net as a package holds it.

    Attributes:
        library: compiled for the target.
        model: the same net as ONNX, in the same dtype.
        image: shape and type of its input.
        output_names: of its outputs, in order.
    """

    library: Path
    model: Path
    image: InputSpec
    output_names: tuple[str, ...] = ("output",)


class RuntimeSession(Protocol):
    """A net that is loaded into a runtime, ready to run and to be timed."""

    @property
    def threads(self) -> int:
        """Worker threads in force, as the runtime itself says; 0 if it does not."""

    def run(self, image: Array) -> tuple[Array, ...]:
        """The net's outputs for one image, in the order of the package's."""

    def time_pass(self) -> tuple[float, ...]:
        """One pass by the target's timing policy: milliseconds of each repeat."""

    def close(self) -> None:
        """Frees the net; closing again does nothing, anything else raises RuntimeError."""


class Runtime(Protocol):
    """Something that runs nets on a target."""

    @property
    def name(self) -> str:
        """As ``--runtime`` takes it."""

    @property
    def title(self) -> str:
        """For tables and messages."""

    @property
    def version(self) -> str:
        """Of the library; empty where it is not installed."""

    def unavailable(self, target: Target) -> str | None:
        """Why no net can run on this target, as a clause for a message; None where one can. Loads no library."""

    def open(self, net: NetFiles, target: ResolvedTarget, endpoint: Endpoint) -> RuntimeSession:
        """Loads a net, to run with the target's threads.

        Raises:
            RuntimeUnavailableError: it cannot run this net here; says why.
            StorageError: a file of the net is damaged.
            DeviceError: the device did not answer.
        """
