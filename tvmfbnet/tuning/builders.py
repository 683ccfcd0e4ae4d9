"""Building candidate kernels in a pool of worker processes that live as long as the run.

TVM's own builder restarts its workers every round and imports modules in each that take 11 to 50 s; here a worker
pays for loading TVM once.
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tvmfbnet.compiler.library import linker
from tvmfbnet.devices.remote import KernelTiming, last_line
from tvmfbnet.devices.target import Target
from tvmfbnet.tuning.metaschedule import Candidate


def build_candidate(mod_json: str, target_json: str, library: str, linking: dict[str, Any]) -> str:
    """Runs in a worker: compiles one scheduled kernel into a shared library and returns its path."""
    import tvm
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
    from tvm.support import cc

    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(tvm.ir.load_json(mod_json))
    built = build(mod, target=tvm.target.Target(json.loads(target_json)))
    built.export_library(library, fcompile=cc.create_shared, **linking)
    return library


class BuilderPool:
    """Compiles candidates for a target in ``workers`` processes, each build under the target's deadline."""

    def __init__(self, target: Target, folder: Path, workers: int) -> None:
        from tvm.support.popen_pool import PopenPoolExecutor

        self._target_json, self._linking, self._folder = target.tvm_json(), linker(target), folder
        self._seconds = target.timeouts.build
        self._pool = PopenPoolExecutor(max_workers=workers, timeout=self._seconds)
        self._count = 0

    def submit(self, candidate: Candidate) -> Future[str]:
        """Starts one build; the future gives the library's path."""
        self._count += 1
        library = self._folder / f"candidate{self._count}.so"
        future: Future[str] = self._pool.submit(
            build_candidate, candidate.mod_json, self._target_json, str(library), self._linking
        )
        return future

    def failure(self, error: BaseException) -> KernelTiming:
        """What a failed build is recorded as."""
        if isinstance(error, TimeoutError):
            return KernelTiming(error=f"took longer than {self._seconds:g} s", kind="build timeout")
        return KernelTiming(error=last_line(str(error)), kind="build")

    def close(self) -> None:
        """Ends the workers."""
        self._pool.shutdown(wait=False)

    def __enter__(self) -> BuilderPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
