"""A child process of this machine that serves until it is stopped: a tracker, a device server, a cycle server."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from tvmfbnet.errors import DeviceError
from tvmfbnet.rpc.serve import READY

# No other client waits for a private server.
MAX_SESSION_SECONDS = 86400
_START_SECONDS = 60.0
_DRAIN_SECONDS = 1.0


class Service:
    """A child process that prints ``ready`` and serves until :meth:`stop`, or until this process dies.

    Args:
        arguments: of ``python -m tvmfbnet.rpc.serve``; the first one names the service.
        threads: worker threads of its TVM runtime.
        program: command to run instead of ``serve``; it must exit when its stdin closes.
    """

    def __init__(self, arguments: Sequence[str], threads: int = 1, program: Sequence[str] = ()) -> None:
        serve = [sys.executable, "-m", "tvmfbnet.rpc.serve", *arguments, "--parent", str(os.getpid())]
        self.process = subprocess.Popen(
            program or serve,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "TVM_NUM_THREADS": str(threads)},
        )
        self._errors: list[bytes] = []
        self._drain = threading.Thread(target=self._collect_errors, daemon=True)
        self._drain.start()
        self._what = arguments[0]

    def _collect_errors(self) -> None:
        stream = self.process.stderr
        if stream is not None:
            with stream:
                for line in stream:
                    self._errors = [*self._errors[-200:], line]

    @property
    def log(self) -> str:
        """The last lines of the service's stderr."""
        return b"".join(self._errors).decode(errors="replace")

    def wait_until_ready(self) -> None:
        """Waits until the service listens.

        Raises:
            DeviceError: it exited or printed nothing for a minute; carries its last message.
        """
        stdout, what = self.process.stdout, self._what
        if stdout is None:
            raise DeviceError(f"the {what} has no output to read")
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            line = b""
        if line.strip() != READY.encode():
            self.stop()
            reason = self.log.strip().splitlines()
            told = reason[-1].removeprefix("error: ") if reason else "no message"
            raise DeviceError(f"the {what} did not start: {told}")

    def stop(self) -> None:
        """Kills the process and everything it started, and closes its pipes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._drain.join(_DRAIN_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
