"""Building candidate kernels in worker processes that live as long as the run.

TVM's own builder restarts its workers every round and imports modules in each that take 11 to 50 s; here a worker
pays for loading TVM once. A job takes text and gives bytes, so any :class:`concurrent.futures.Executor` can run it,
also one whose workers are other machines.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from tvmfbnet.compiler.library import linker
from tvmfbnet.devices.lifeline import follow
from tvmfbnet.devices.session import KernelTiming, Pool, last_line
from tvmfbnet.devices.target import Target
from tvmfbnet.tuning.candidate import Candidate


@dataclass(frozen=True)
class Built:
    """A linked candidate: the shared library's content, the pool it goes around, and the seconds that it took."""

    library: bytes
    pool: Pool | None
    seconds: float


# What a build gives, in plain data: other machines' workers may run it.
BuildResult = tuple[bytes, tuple[int, int, int] | None, float]


def build_candidate(mod_json: str, target_json: str, linking: dict[str, Any], pool_mb: float) -> BuildResult:
    """Runs in a worker: compiles a scheduled kernel into a shared library.

    Args:
        mod_json: the scheduled kernel.
        target_json: TVM target.
        linking: arguments of TVM's linker call.
        pool_mb: size of the pool of weights that it goes around when it is timed, MiB; 0 for none.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import tvm
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
    from tvm.support import cc

    from tvmfbnet.compiler.rotating import pool_for, rotation_of

    started = time.monotonic()
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(tvm.ir.load_json(mod_json))
    pool, target = pool_for(mod, pool_mb * 2**20) if pool_mb else None, tvm.target.Target(json.loads(target_json))
    built = build(mod, target=target)
    with TemporaryDirectory() as folder:
        path, rotation = Path(folder) / "candidate.so", Path(folder) / "rotation.o"
        if pool is not None:
            build(rotation_of(mod, pool), target=target).write_to_file(str(rotation))
        addons = [str(rotation)] if pool is not None else None
        built.export_library(str(path), fcompile=cc.create_shared, addons=addons, **linking)
        content = path.read_bytes()
    return content, None if pool is None else (pool.argument, pool.slices, pool.values), time.monotonic() - started


class BuilderPool:
    """Compiles candidates for a target, each build under the target's deadline.

    Args:
        target: what for.
        workers: processes on this machine.
        executor: runs the builds instead of those processes.
    """

    def __init__(self, target: Target, workers: int, executor: Executor | None = None) -> None:
        from tvm.support.popen_pool import PopenPoolExecutor

        self._target_json, self._linking = target.tvm_json(), linker(target, trial=True)
        self._seconds = target.timeouts.build
        # A GPU's kernels cannot call each other, and TVM's C has no words for slices of a tensor.
        rotates = target.on_cpu and target.tvm["kind"] != "c"
        self._pool_mb = target.timing.trial_rotate_mb if rotates else 0.0
        self._owned = executor is None
        bound = {"initializer": follow, "initargs": (os.getpid(),)}  # a worker in a long build would outlive us
        self._pool: Any = PopenPoolExecutor(workers, timeout=self._seconds, **bound) if executor is None else executor

    def submit(self, candidate: Candidate) -> Future[BuildResult]:
        """Starts one build."""
        future: Future[BuildResult] = self._pool.submit(
            build_candidate, candidate.mod_json, self._target_json, self._linking, self._pool_mb
        )
        return future

    def result(self, future: Future[BuildResult]) -> Built | KernelTiming:
        """Waits for a build; a failed one comes as the failed trial that it is."""
        try:
            library, pool, seconds = future.result()
            return Built(library, None if pool is None else Pool(*pool), seconds)
        except TimeoutError:
            return KernelTiming(error=f"took longer than {self._seconds:g} s", kind="build timeout")
        except Exception as error:
            return KernelTiming(error=last_line(str(error)), kind="build")

    def close(self) -> None:
        """Ends the workers that this pool started."""
        if self._owned:
            self._pool.shutdown(wait=False)

    def __enter__(self) -> BuilderPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
