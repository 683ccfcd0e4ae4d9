"""Builds candidate kernels in worker processes that live for the whole run.

TVM's own builder restarts its workers every round, and each restart imports modules for 11 to 50 s; here a worker
loads TVM once. A job takes text and returns bytes, so any :class:`concurrent.futures.Executor` can run it, including
one whose workers are on other machines.

The workers die with this process, even in the middle of a build, and never see a Ctrl-C: an interrupted build would
look like a kernel that cannot be built.

Kernels that are timed on this machine need cores of their own. Workers are stopped meanwhile (SIGSTOP), so that all
cores build in between.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.support.popen_pool import PopenWorker

from tvmfbnet.autotune.builder import load
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.compiler.library import linker
from tvmfbnet.machine import allowed_cores
from tvmfbnet.rpc.session import KernelTiming, Pool, last_line
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget


@dataclass(frozen=True)
class Built:
    """A linked candidate: the shared library's bytes, the weight pool that it cycles through, and the build seconds."""

    library: bytes
    pool: Pool | None
    seconds: float


# Of a build's deadline: a build that began earlier is not stopped, and none stays stopped for longer.
_STOPPED_SHARE = 0.25

# The result of a build as plain data: workers on other machines may run it.
BuildResult = tuple[bytes, tuple[int, int, int] | None, float]


def build_candidate(
    mod_json: str, target_json: str, linking: dict[str, Any], pool_mb: float, is_checked: bool = False
) -> BuildResult:
    """Runs in a worker: compiles a scheduled kernel into a shared library.

    Args:
        mod_json: the scheduled kernel.
        target_json: TVM target.
        linking: from :func:`tvmfbnet.compiler.library.linker`.
        pool_mb: size of the weight pool that it cycles through when it is timed, MiB; 0 for none.
        is_checked: whether the library also gets the kernel with its prepacking, whose output can be compared.
    """
    import tvm
    from tvm.driver import build

    from tvmfbnet.compiler.cold_weights import checked_of, pool_for, rotation_object
    from tvmfbnet.compiler.library import link
    from tvmfbnet.compiler.scheduled_kernels import for_codegen, without_prepacking
    from tvmfbnet.compiler.unchecked import unchecked

    started, target = time.monotonic(), tvm.target.Target(json.loads(target_json))
    scheduled = tvm.ir.load_json(mod_json)
    mod, compiled_for = for_codegen(without_prepacking(scheduled), target)
    pool = pool_for(mod, pool_mb * 2**20) if pool_mb else None
    with unchecked(), scratch_folder() as folder:
        built = build(mod, target=compiled_for)
        path, addons = folder / "candidate.so", []
        if pool is not None:
            addons.append(folder / "rotation.o")
            addons[-1].write_bytes(rotation_object(mod, pool, target_json))
        if is_checked:
            addons.append(folder / "checked.o")
            build(checked_of(for_codegen(scheduled, target)[0]), target=compiled_for).write_to_file(str(addons[-1]))
        built.export_library(
            str(path), fcompile=link, addons=[str(addon) for addon in addons], workspace_dir=str(folder), **linking
        )
        content = path.read_bytes()
    return content, None if pool is None else (pool.argument, pool.slices, pool.values), time.monotonic() - started


class _LocalBuilders(Executor):
    """Worker processes on this machine, one per thread, started immediately.

    Args:
        workers: number of processes.
        seconds: deadline of a build; past it the worker is killed and TimeoutError raised.
        folder: for the workers' temporary files, TVM's included.
    """

    def __init__(self, workers: int, seconds: float, folder: Path) -> None:
        self._seconds, self._folder = seconds, folder
        self._own = threading.local()
        self._all: list[_Builder] = []
        self._threads = ThreadPoolExecutor(workers, initializer=self._start)
        for _ in range(workers):
            self._threads.submit(self._run, load, (), {})

    def _start(self) -> None:
        self._own.worker = _Builder(self._folder)
        self._all.append(self._own.worker)

    def _run(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        worker: _Builder = self._own.worker
        with worker.at_work():
            worker.send(function, arguments, named, self._seconds)
            return worker.recv()

    def run_only(self, count: int) -> None:
        """Stops all workers but ``count``, and lets these run; a build that began long ago is not stopped."""
        for place, worker in enumerate(self._all):
            worker.stop(_STOPPED_SHARE * self._seconds) if place >= count else worker.resume()

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        """Runs ``function(*arguments, **named)`` in the next free worker."""
        return self._threads.submit(self._run, function, arguments, named)

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Ends the workers, whatever they are doing; their processes and pipes are gone when this returns."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        for worker in self._all:
            worker.end()
        # Threads that wait for an answer get an error at once, for nobody holds the other end any more.
        self._threads.shutdown(wait=True)
        for worker in self._all:
            worker.kill()


class _Builder(PopenWorker):  # type: ignore[misc]
    """TVM's worker process, started our way: see :func:`tvmfbnet.autotune.builder.main`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._proc: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._folder = folder
        self._lock, self._ended = threading.Lock(), False
        self._began: float | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Notes since when it builds."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def stop(self, seconds: float) -> None:
        """Stops the process until :meth:`resume`, unless its build began that long ago: it has a deadline."""
        began = self._began
        if began is None or time.monotonic() - began < seconds:
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it run."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """Sends a signal to the process and what it runs."""
        with self._lock, suppress(ProcessLookupError):
            if self._proc is not None and self._proc.poll() is None:
                os.killpg(self._proc.pid, number)

    def _start(self) -> None:
        with self._lock:
            if self._ended:
                raise ChildProcessError("the builders have been ended")
            if self._proc is None:
                self._start_process()

    def _start_process(self) -> None:
        # The third pipe carries no data; it closes when this process dies.
        (answers, answer), (requests, request), (pipe, self._lifeline) = os.pipe(), os.pipe(), os.pipe()
        command = [sys.executable, "-m", "tvmfbnet.autotune.builder", str(requests), str(answer)]
        self._proc = subprocess.Popen(
            [*command, str(os.getpid()), str(pipe), str(self._folder)],
            pass_fds=(requests, answer, pipe),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        for inherited in (requests, answer, pipe):
            os.close(inherited)
        self._reader, self._writer = os.fdopen(answers, "rb"), os.fdopen(request, "wb")

    def kill(self) -> None:
        """Ends the process; the next job starts another one."""
        super().kill()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def end(self) -> None:
        """Kills the process at once and for good; whoever waits for its answer gets an error."""
        with self._lock:
            self._ended, process = True, self._proc
            if process is not None:
                with suppress(OSError):
                    process.kill()


class BuilderPool:
    """Compiles candidates for a target, each within the target's build timeout.

    Args:
        target: what to compile for.
        workers: number of processes on this machine.
        folder: for their temporary files.
        executor: runs the builds instead of those processes.
    """

    def __init__(self, target: ResolvedTarget, workers: int, folder: Path, executor: Executor | None = None) -> None:
        self._cores, self._threads = allowed_cores(), target.threads if target.transport.kind == "local" else 0
        self._timed, self._lock = 0, threading.Lock()
        self._target_json, self._linking = target.tvm_json(), linker(target, trial=True)
        self._seconds = target.timeouts.build
        # A GPU's kernels cannot call each other, and TVM's C has no words for slices of a tensor.
        rotates = target.on_cpu and target.tvm["kind"] != "c"
        self._pool_mb = target.timing.trial_rotate_mb if rotates else 0.0
        self._local = _LocalBuilders(workers, self._seconds, folder) if executor is None else None
        self._pool: Executor = executor or self._local  # type: ignore[assignment]

    def submit(self, candidate: ScheduleCandidate) -> Future[BuildResult]:
        """Starts one build."""
        texts, is_checked = (candidate.mod_json, self._target_json), candidate.reference is not None
        return self._pool.submit(build_candidate, *texts, self._linking, self._pool_mb, is_checked)

    def result(self, future: Future[BuildResult]) -> Built | KernelTiming:
        """Waits for a build; a failed build is returned as a failed trial."""
        try:
            library, pool, seconds = future.result()
            return Built(library, None if pool is None else Pool(*pool), seconds)
        except TimeoutError:
            return KernelTiming(error=f"took longer than {self._seconds:g} s", kind="build timeout")
        except Exception as error:
            return KernelTiming(error=last_line(str(error)), kind="build")

    @contextmanager
    def making_way(self) -> Iterator[None]:
        """While a kernel of a local target is timed, only as many workers run as it leaves cores."""
        if self._local is None or not self._threads:
            yield
            return
        self._count_timed(1)
        # A kernel that hangs must not make builds miss their deadline.
        timer = threading.Timer(_STOPPED_SHARE * self._seconds, self._local.run_only, [self._cores])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._count_timed(-1)

    def _count_timed(self, change: int) -> None:
        with self._lock:
            self._timed += change
            if self._local is not None:
                self._local.run_only(max(0, self._cores - self._threads * self._timed))

    def close(self) -> None:
        """Ends the workers that this pool started."""
        if self._local is not None:
            self._local.shutdown(wait=False)

    def __enter__(self) -> BuilderPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
