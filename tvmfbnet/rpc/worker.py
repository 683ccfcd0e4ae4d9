"""A child process that runs one function at a time and is dead when its time is up.

TVM's RPC client waits for ever for a frozen device or a lost network, holds Python's lock meanwhile, and may be taken
down by a crashing driver. So remote calls run in this process. Its deadline is kept twice: by an alarm of the system,
which ends it whatever its threads are doing, and by the parent, which kills it in case it is stopped. It never
outlives its parent (:mod:`tvmfbnet.rpc.lifeline`), and is in a process group of its own, so that a Ctrl-C reaches
the parent alone, which then decides what to keep.

A message is its length in eight bytes and a pickle. The parent sends ``(function, arguments, stages)``; the child
answers with any number of ``("stage", name, note)`` and ``("part", value)``, and at last ``("done", value)`` or
``("failed", text)``.
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
from tvmfbnet.rpc.without_torch import leave_out_torch

_HEADER = struct.Struct("<q")
# How long a child that closed its pipe may take to be gone.
_END_SECONDS = 1.0


class LateError(Exception):
    """The child was killed because its time was up."""


class GoneError(Exception):
    """The child ended by itself, without an answer."""


@dataclass(frozen=True)
class Stage:
    """A piece of a call with a deadline of its own: its name, and the seconds it may last."""

    name: str
    seconds: float


class Worker:
    """The parent's end. Not for several threads at once.

    Args:
        start_seconds: how long the child may take to load what it needs.

    Raises:
        LateError, GoneError: it did not start.
    """

    def __init__(self, start_seconds: float) -> None:
        # Standard input carries the calls; this pipe carries nothing, and ends with this process.
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
        """Runs ``job(tell, give, *arguments)``: calls ``tell(stage, note)`` when a stage begins.

        With ``give(part)`` it hands over pieces of its result as soon as they are there.

        Args:
            job: runs in the child; its answer is ``("done", value)`` or ``("failed", text)``.
            arguments: of the job.
            stages: in their order; the first begins at once.
            told: is called with every stage's name and note as the child tells them.
            given: is called with every part as the child gives it.

        Raises:
            LateError: a stage lasted too long; the child is dead.
            GoneError: the child crashed.
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
            raise GoneError
        out = self.process.stdin.fileno()
        os.set_blocking(out, False)
        rest = memoryview(_HEADER.pack(len(data)) + data)
        while rest:
            self._wait(out, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(out, rest) :]
            except OSError as error:
                self.close()
                raise GoneError from error

    def _receive(self, deadline: float) -> bytes:
        (size,) = _HEADER.unpack(self._read(_HEADER.size, deadline))
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        if self.process.stdout is None:
            raise GoneError
        parts = bytearray()
        while len(parts) < size:
            source = self.process.stdout.fileno()
            self._wait(source, select.POLLIN, deadline)
            part = os.read(source, size - len(parts))
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(_END_SECONDS)
                late = self.process.poll() == -signal.SIGALRM
                self.close()
                raise LateError if late else GoneError
            parts += part
        return bytes(parts)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        """Until the pipe can be used, or its other end is gone."""
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, 1e3 * (deadline - time.monotonic()))):
            self.close()
            raise LateError

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


# What follows runs in the child.


def main() -> None:
    """Loads TVM, says so, then answers until the parent closes the pipe; dies with the parent at any moment."""
    lifeline.hold(int(sys.argv[2]), int(sys.argv[1]), group=False)
    leave_out_torch()
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # drivers print where they like
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    import cloudpickle
    import tvm.rpc  # noqa: F401 - what every job needs

    gc.freeze()  # what is loaded stays; looking through it after every call would cost more than the call
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
    rest = memoryview(_HEADER.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(out, rest) :]


def _exactly(size: int) -> bytes | None:
    """So many bytes of standard input; None at its end."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
