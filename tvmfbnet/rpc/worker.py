"""A child process that runs one function at a time and is killed at its deadline.

TVM's RPC client hangs forever on a frozen device or lost network, holding the GIL, and may be taken down by a crashing
driver. So remote calls run in this process. The deadline is enforced twice: by a system alarm, which kills the child
whatever its threads are doing, and by the parent, in case the child is stopped. The child never outlives its parent
(:mod:`tvmfbnet.rpc.lifeline`), and has a process group of its own, so that only the parent gets a Ctrl-C and decides
what to keep.

It has TVM's runtime but not its compiler: a job lies in a module that can be imported without.

A message is an 8-byte length and a pickle. The parent sends ``(function, arguments, stages)``; the child answers with
any number of ``("stage", name, note)`` and ``("part", value)``, then ``("done", value)`` or ``("failed", text)``.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tvmfbnet.rpc import lifeline
from tvmfbnet.rpc.runtime_only import load_runtime

_HEADER = struct.Struct("<q")
# Time for a child to exit after it closed its pipe.
_END_SECONDS = 1.0


class WorkerTimeoutError(Exception):
    """The child was killed at its deadline."""


class WorkerDiedError(Exception):
    """The child died without an answer."""


@dataclass(frozen=True)
class Stage:
    """A stage of a call: its name, and its timeout in seconds."""

    name: str
    seconds: float


class Worker:
    """The parent's end. Not thread-safe.

    Args:
        start_seconds: timeout for the child to load its modules.

    Raises:
        WorkerTimeoutError, WorkerDiedError: it did not start.
    """

    def __init__(self, start_seconds: float) -> None:
        # Standard input carries the calls; this pipe carries no data, and closes when this process dies.
        pipe, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tvmfbnet.rpc.worker", str(os.getpid()), str(pipe)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(pipe,),
                process_group=0,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(pipe)
        self._receive(time.monotonic() + start_seconds)

    def call(
        self,
        job: Callable[..., Any],
        arguments: tuple[Any, ...],
        stages: Sequence[Stage],
        told: Told,
        given: Callable[[Any], None] = lambda part: None,
    ) -> Any:
        """Runs ``job(tell, give, *arguments)``; the job calls ``tell(stage, note)`` when a stage starts.

        It calls ``give(part)`` to deliver partial results early.

        Args:
            job: runs in the child; returns ``("done", value)`` or ``("failed", text)``.
            arguments: of the job.
            stages: in order; the first starts immediately.
            told: called with each stage's name and note.
            given: called with each partial result.

        Raises:
            WorkerTimeoutError: a stage took too long; the child was killed.
            WorkerDiedError: the child crashed.
        """
        import cloudpickle

        limits = {stage.name: stage.seconds for stage in stages}
        deadline = time.monotonic() + stages[0].seconds
        self._send(cloudpickle.dumps((job, arguments, limits, stages[0].name)), deadline)
        while True:
            message = cloudpickle.loads(self._receive(deadline))
            if message[0] == "part":
                given(message[1])
                continue
            if message[0] != "stage":
                return message
            deadline = time.monotonic() + limits[message[1]]
            told(message[1], message[2])

    def _send(self, data: bytes, deadline: float) -> None:
        if self.process.stdin is None:
            raise WorkerDiedError
        out = self.process.stdin.fileno()
        os.set_blocking(out, False)
        unsent = memoryview(_HEADER.pack(len(data)) + data)
        while unsent:
            self._wait(out, select.POLLOUT, deadline)
            try:
                unsent = unsent[os.write(out, unsent) :]
            except OSError as error:
                self.close()
                raise WorkerDiedError from error

    def _receive(self, deadline: float) -> bytes:
        (size,) = _HEADER.unpack(self._read(_HEADER.size, deadline))
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        if self.process.stdout is None:
            raise WorkerDiedError
        parts = bytearray()
        while len(parts) < size:
            source = self.process.stdout.fileno()
            self._wait(source, select.POLLIN, deadline)
            part = os.read(source, size - len(parts))
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(_END_SECONDS)
                timed_out = self.process.poll() == -signal.SIGALRM
                self.close()
                raise WorkerTimeoutError if timed_out else WorkerDiedError
            parts += part
        return bytes(parts)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        """Waits until the pipe is ready or its other end is closed."""
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, 1e3 * (deadline - time.monotonic()))):
            self.close()
            raise WorkerTimeoutError

    def close(self) -> None:
        """Kills the child."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


Told = Callable[[str, str], None]


# The rest runs in the child.


def main() -> None:
    """Loads TVM's runtime, reports ready, then answers calls until the parent closes the pipe; dies with the parent."""
    lifeline.hold(int(sys.argv[2]), int(sys.argv[1]), group=False)
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # drivers may print to stdout
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    load_runtime()
    import cloudpickle
    import tvm.rpc  # noqa: F401 - what every job needs

    gc.freeze()  # loaded modules stay; scanning them after every call would cost more than the call
    _answer(out, b"ready")
    while (head := _exactly(_HEADER.size)) is not None:
        data = _exactly(_HEADER.unpack(head)[0])
        if data is None:
            return
        job, arguments, limits, first = cloudpickle.loads(data)
        signal.setitimer(signal.ITIMER_REAL, limits[first])

        def tell(stage: str, note: str = "", limits: dict[str, float] = limits) -> None:
            signal.setitimer(signal.ITIMER_REAL, limits[stage])
            _answer(out, cloudpickle.dumps(("stage", stage, note)))

        def give(part: Any) -> None:
            _answer(out, cloudpickle.dumps(("part", part)))

        answer = cloudpickle.dumps(job(tell, give, *arguments))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _answer(out, answer)


def _answer(out: int, data: bytes) -> None:
    unsent = memoryview(_HEADER.pack(len(data)) + data)
    while unsent:
        unsent = unsent[os.write(out, unsent) :]


def _exactly(size: int) -> bytes | None:
    """Exactly ``size`` bytes of standard input; None at its end."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
