"""Jobs on a device: running or timing a library over RPC, in a worker process and under a deadline.

TVM's RPC client hangs forever on a frozen device or lost network, and a crashing driver may take it down. So every
remote call runs in a child process (:mod:`tvmfbnet.rpc.worker`), which executes the jobs of
:mod:`tvmfbnet.rpc.session`; the parent never touches RPC.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from tvmfbnet.errors import DeviceError
from tvmfbnet.progress import say
from tvmfbnet.rpc.demands import Demands, UnfitDeviceError
from tvmfbnet.rpc.device_facts import device_facts, opencl_extensions
from tvmfbnet.rpc.session import UploadError, connect, last_line
from tvmfbnet.rpc.tracker import Endpoint, await_key
from tvmfbnet.rpc.worker import Stage, Worker, WorkerDiedError, WorkerTimeoutError
from tvmfbnet.targets.definition import Target

# Timeout for a new worker to load TVM; no device is involved.
_START_SECONDS = 120.0
# Share of a call's timeout that the device is given.
_SESSION_SHARE = 0.9
# Attempts at a job before its failure counts.
_TRIES = 3
# Status of a call whose device does not meet the requirements.
_UNFIT = "unfit"

ResultT = TypeVar("ResultT")

# The C library's name for SIGILL.
ILLEGAL_INSTRUCTION = "illegal instruction"


def instructions_advice(target: Target) -> str:
    """Advice for compiled code that hits an instruction that the device's CPU lacks."""
    cpu = target.tvm if target.on_cpu else target.tvm.get("host", {})
    mcpu = cpu.get("mcpu", "generic") if isinstance(cpu, dict) else "generic"
    return (
        f"tvm.mcpu of target {target.name} ({mcpu}) names a CPU whose instructions are not all there: name an older "
        "one, or take the missing ones out with mattr, such as [-avx512f]"
    )


class RemoteError(DeviceError):
    """A failed remote call: on which device, in which stage, and how.

    Args:
        message: one line for humans.
        device: its address as registered with the tracker; empty before a device was assigned.
        stage: ``start`` (loading TVM here), ``queue`` (waiting for a free device), ``connect`` or ``run``.
        kind: ``no answer``, ``broke``, ``took no file`` (a full disk), or ``failed`` if the job itself raised.
    """

    def __init__(self, message: str, device: str, stage: str, kind: str) -> None:
        super().__init__(message)
        self.device, self.stage, self.kind = device, stage, kind

    @property
    def illegal_instruction(self) -> bool:
        """Whether the device's CPU lacks an instruction of the compiled code, as the servers report."""
        return ILLEGAL_INSTRUCTION in str(self).lower()

    @property
    def happening(self) -> str:
        """A short description for a report."""
        when = {"start": "here", "queue": "while waiting for one", "connect": "on connecting", "run": "in a session"}
        return f"{self.kind} {when[self.stage]}"


class RemoteWorker:
    """A child process that talks to one endpoint's devices; replaced when it crashes or misses a deadline.

    Args:
        endpoint: tracker and key.
        device: ``cpu``, ``opencl`` or ``metal``.
        session_seconds: limit after which the device ends a session; also how long a call waits for a free device.
        connect_seconds: timeout for opening a session.
        demands: requirements on the device; none by default.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        device: str,
        session_seconds: int,
        connect_seconds: float = 20.0,
        demands: Demands | None = None,
    ) -> None:
        self.demands = demands
        self.endpoint, self.device = endpoint, device
        self.session_seconds, self.connect_seconds = session_seconds, connect_seconds
        self._worker: Worker | None = None
        self._stage = self._address = ""

    @property
    def address(self) -> str:
        """The device of the last call."""
        return self._address

    def start(self) -> None:
        """Starts the child process if needed, and waits until it has loaded TVM."""
        self._stage, self._address = "start", ""
        if self._worker is None:
            try:
                self._worker = Worker(_START_SECONDS)
            except (WorkerTimeoutError, WorkerDiedError) as error:
                raise self._fault("a process that talks to devices did not start", "broke") from error

    def call(
        self,
        job: Callable[..., ResultT],
        *arguments: Any,
        seconds: float,
        given: Callable[[Any], None] = lambda part: None,
    ) -> ResultT:
        """Runs ``job(session, *arguments)`` in the worker, within ``seconds`` of being assigned a device.

        ``given`` receives the partial results that the job passes to ``session.give`` while it runs.

        Raises:
            RemoteError: the job failed, crashed its worker, or timed out.
            DeviceError: the device does not meet the requirements.
        """
        self.start()
        connecting = min(self.connect_seconds, seconds)
        stages = (Stage("queue", self.session_seconds + seconds), Stage("connect", connecting), Stage("run", seconds))
        self._stage = "queue"
        # The device ends a session a little before the client's deadline: so a hung kernel does not block it, and is
        # told apart from a device that does not answer.
        limit = min(self.session_seconds, max(1, math.floor(_SESSION_SHARE * seconds)))
        worker = self._worker
        if worker is None:
            raise RuntimeError("the worker was closed during its start")
        try:
            status, value = worker.call(
                _run_job,
                (self.endpoint, self.device, limit, self.demands, job, arguments),
                stages,
                self._told,
                given,
            )
        except WorkerTimeoutError as error:
            self._worker = None
            waited = next(stage.seconds for stage in stages if stage.name == self._stage)
            if self._stage == "queue":
                raise self._fault(f"{self._where()} was not free within {waited:g} s", "no answer") from error
            raise self._fault(f"{self._where()} gave no answer within {waited:g} s", "no answer") from error
        except WorkerDiedError as error:
            self._worker = None
            raise self._fault(f"the connection to {self._where()} broke: the client crashed", "broke") from error
        except BaseException:
            self.close()  # a late answer would be mistaken for that of a later call
            raise
        if status == _UNFIT:
            raise DeviceError(f"{value} (device {self._address}, tracker {self.endpoint.address})")
        if status != "done":
            raise self._fault(f"{self._where()}: {value}", status)
        result: ResultT = value
        return result

    def persist(self, job: Callable[..., ResultT], *arguments: Any, seconds: float) -> ResultT:
        """Like :meth:`call`, but retries a failed job on any free device.

        Raises:
            RemoteError: every attempt failed.
            DeviceError: no device came back.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                return self.call(job, *arguments, seconds=seconds)
            except RemoteError as error:
                if not tries_left:
                    raise
                say(f"warning: {error}; trying again")
                await_key(self.endpoint, self.session_seconds)
        raise AssertionError

    def _told(self, stage: str, note: str) -> None:
        self._stage, self._address = stage, note or self._address

    def _fault(self, message: str, kind: str) -> RemoteError:
        return RemoteError(message, self._address, self._stage, kind)

    def _where(self) -> str:
        return f"device {self.endpoint.key!r} at tracker {self.endpoint.address}"

    def close(self) -> None:
        """Ends the child process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> RemoteWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def worker_for(target: Target, endpoint: Endpoint) -> RemoteWorker:
    """A worker with a target's timeouts that accepts only devices that meet its requirements."""
    threads = target.threads if target.device == "cpu" else 0
    extension = target.data_type.opencl_extension if target.device == "opencl" else ""
    demands = Demands(threads, target.cores, endpoint.model, target.dtype, extension)
    return RemoteWorker(endpoint, target.device, target.timeouts.session, target.timeouts.connect, demands)


# The rest runs in the worker process.


def _run_job(
    tell: Callable[[str, str], None],
    give: Callable[[Any], None],
    endpoint: Endpoint,
    device: str,
    session_seconds: int,
    demands: Demands | None,
    job: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> tuple[str, Any]:
    try:
        session = connect(tell, endpoint, device, session_seconds)
        if demands is not None:
            demands.check(device_facts(session), endpoint.key)
            if demands.opencl_extension:
                demands.check_extensions(opencl_extensions(session), endpoint.key)
        return "done", job(replace(session, give=give), *arguments)
    except UnfitDeviceError as error:
        return _UNFIT, str(error)
    except UploadError as error:
        return "took no file", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {last_line(str(error))}"
    finally:
        gc.collect()  # a session ends with its last reference, and TVM's objects have cycles
