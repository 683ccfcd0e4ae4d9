"""Our own package on its device: the compiled library through a device session, timed by the device timer."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING

from tvmfbnet.deploy.runtimes.runtime import Array, NetFiles
from tvmfbnet.errors import StorageError
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget, Target

if TYPE_CHECKING:
    from tvmfbnet.profiling.device_timer import DeviceTimer


class TvmSession:
    """The package's library on a device.

    Args:
        net: what to run.
        target: with its timing policy.
        endpoint: where the device is.
    """

    def __init__(self, net: NetFiles, target: ResolvedTarget, endpoint: Endpoint) -> None:
        from tvmfbnet.profiling.device_timer import device_timer  # loads TVM

        self._net, self._resources = net, ExitStack()
        self._timer: DeviceTimer | None = self._resources.enter_context(device_timer(target, endpoint))

    @property
    def timer(self) -> DeviceTimer:
        """The timer of the device."""
        if self._timer is None:
            raise RuntimeError("this session is closed")
        return self._timer

    @property
    def threads(self) -> int:
        """As the device reports with a measurement; before the first one, an empty call is timed. 0 if it does not."""
        if not self.timer.fingerprint:
            self.timer.overhead_ms()
        return int(self.timer.fingerprint.get("threads") or 0)

    def run(self, image: Array) -> tuple[Array, ...]:
        """The net's outputs for one image, in order."""
        return self.timer.run(self._net.library, image)

    def time_pass(self) -> tuple[float, ...]:
        """One pass: milliseconds of each repeat."""
        return self.timer.time(self._net.library, self._net.image.shape, self._net.image.dtype)

    def close(self) -> None:
        """Ends the process that talks to the device."""
        self._timer = None
        self._resources.close()


class TvmRuntime:
    """TVM, as the package was compiled."""

    name, title = "tvm", "TVM"

    @property
    def version(self) -> str:
        """Of TVM on this machine, which compiled the package."""
        return version("apache-tvm")

    def unavailable(self, target: Target) -> str | None:
        """Never: the package was compiled for the target."""
        return None

    def open(self, net: NetFiles, target: ResolvedTarget, endpoint: Endpoint) -> TvmSession:
        """Loads the library on the device, once, so that a damaged one is found here."""
        from tvmfbnet.rpc.remote import RemoteError

        session = TvmSession(net, target, endpoint)
        try:
            session.timer.check(net.library)
        except RemoteError as error:
            session.close()
            if error.kind != "failed":
                raise  # the device's fault, not the file's
            raise StorageError(f"TVM cannot load {net.library} ({error}); compile the net again") from error
        except BaseException:
            session.close()
            raise
        return session
