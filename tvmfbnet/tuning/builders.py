"""Building candidate kernels in worker processes that live as long as the run.

TVM's own builder restarts its workers every round and imports modules in each that take 11 to 50 s; here a worker
pays for loading TVM once. A job takes text and gives bytes, so any :class:`concurrent.futures.Executor` can run it,
also one whose workers are other machines.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from tvmfbnet.compiler.library import trial_linker
from tvmfbnet.devices.remote import KernelTiming, last_line
from tvmfbnet.devices.target import Target
from tvmfbnet.tuning.candidate import Candidate


@dataclass(frozen=True)
class Built:
    """A linked candidate: the shared library's content, and the seconds that it took."""

    library: bytes
    seconds: float


def build_candidate(mod_json: str, target_json: str, linking: dict[str, Any]) -> tuple[bytes, float]:
    """Runs in a worker: compiles a scheduled kernel into a shared library; gives its content and the seconds taken."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import tvm
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
    from tvm.support import cc

    started = time.monotonic()
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(tvm.ir.load_json(mod_json))
    built = build(mod, target=tvm.target.Target(json.loads(target_json)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.so"
        built.export_library(str(path), fcompile=cc.create_shared, **linking)
        return path.read_bytes(), time.monotonic() - started


class BuilderPool:
    """Compiles candidates for a target, each build under the target's deadline.

    Args:
        target: what for.
        workers: processes on this machine.
        executor: runs the builds instead of those processes.
    """

    def __init__(self, target: Target, workers: int, executor: Executor | None = None) -> None:
        from tvm.support.popen_pool import PopenPoolExecutor

        self._target_json, self._linking = target.tvm_json(), trial_linker(target)
        self._seconds = target.timeouts.build
        self._owned = executor is None
        self._pool: Any = PopenPoolExecutor(workers, timeout=self._seconds) if executor is None else executor

    def submit(self, candidate: Candidate) -> Future[tuple[bytes, float]]:
        """Starts one build."""
        future: Future[tuple[bytes, float]] = self._pool.submit(
            build_candidate, candidate.mod_json, self._target_json, self._linking
        )
        return future

    def result(self, future: Future[tuple[bytes, float]]) -> Built | KernelTiming:
        """Waits for a build; a failed one comes as the failed trial that it is."""
        try:
            return Built(*future.result())
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
