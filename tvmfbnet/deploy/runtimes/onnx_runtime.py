"""ONNX Runtime on this machine's CPU, with as many threads as the target."""

from __future__ import annotations

import os
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tvmfbnet.deploy.runtimes.runtime import Array, NetFiles
from tvmfbnet.errors import RuntimeUnavailableError, StorageError
from tvmfbnet.extras import missing
from tvmfbnet.rpc.session import InputSpec, last_line
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget, Target
from tvmfbnet.targets.sections import TimingPolicy

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxSession:
    """An ONNX model in ONNX Runtime.

    Args:
        model: the file; its input is ``input``.
        image: shape and type of the input.
        threads: worker threads of a call.
        policy: how a pass is timed.

    Raises:
        RuntimeUnavailableError: ONNX Runtime has no implementation of the model's operators in its dtype.
        StorageError: the file is damaged.
    """

    def __init__(self, model: Path, image: InputSpec, threads: int, policy: TimingPolicy) -> None:
        self._image, self._policy = {"input": image.random()}, policy
        self._calls = 0
        self._loaded: Any = _load(model, threads)

    @property
    def _session(self) -> Any:
        if self._loaded is None:
            raise RuntimeError("this session is closed")
        return self._loaded

    @property
    def threads(self) -> int:
        """Worker threads within an operator."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def run(self, image: Array) -> tuple[Array, ...]:
        """The net's outputs for one image, in order."""
        return tuple(self._session.run(None, {"input": image}))

    def time_pass(self) -> tuple[float, ...]:
        """One pass: warm-up calls, then milliseconds of each repeat."""
        for _ in range(max(self._policy.warmup, 1)):
            self._session.run(None, self._image)
        calls = max(self._calls, 1)
        while (elapsed := self._time(calls)) < self._policy.min_repeat_ms:
            calls = max(calls * 2, int(calls * self._policy.min_repeat_ms / max(elapsed, 1e-3)))
        self._calls = calls
        return tuple(self._time(calls) / calls for _ in range(self._policy.repeats))

    def _time(self, calls: int) -> float:
        """Milliseconds for ``calls`` calls."""
        run = self._session.run
        started = time.perf_counter()
        for _ in range(calls):
            run(None, self._image)
        return 1e3 * (time.perf_counter() - started)

    def close(self) -> None:
        """Frees the model."""
        self._loaded = None


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, imported with its telemetry off, unless the user's environment says otherwise.

    From 1.29 on its Linux builds report sessions to Microsoft, with the name and a hash of the model, and keep a
    database for that in the user's cache. ``ORT_DISABLE_TELEMETRY``, read at import, switches that off; the variable is
    gone again afterwards.
    """
    given = os.environ.get(_NO_TELEMETRY)
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        import onnxruntime
    finally:
        if given is None:
            os.environ.pop(_NO_TELEMETRY, None)
    return onnxruntime


def _load(model: Path, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByRuntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except NotImplementedByRuntime as error:
        raise RuntimeUnavailableError(f"ONNX Runtime cannot run {model} ({last_line(str(error))})") from error
    except Exception as error:  # ONNX Runtime has its own exception types
        raise StorageError(
            f"ONNX Runtime cannot load {model} ({last_line(str(error))}); compile the net again"
        ) from error


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name, title = "onnxruntime", "ONNX Runtime"

    @property
    def version(self) -> str:
        """Of the installed package; empty if there is none."""
        try:
            return version("onnxruntime")
        except PackageNotFoundError:
            return ""

    def unavailable(self, target: Target) -> str | None:
        """It runs on this machine alone."""
        if reason := missing("onnxruntime"):
            return reason
        if target.transport.kind != "local":
            return f"it runs on this machine only, and target {target.name} is a device behind a tracker"
        if target.is_simulated:
            return f"it runs on this machine only, and target {target.name} is simulated"
        if target.transport.emulator:
            return f"it runs on this machine only, and target {target.name} is emulated"
        return None

    def open(self, net: NetFiles, target: ResolvedTarget, endpoint: Endpoint) -> OnnxSession:
        """Loads the package's ONNX model into this process."""
        reason = self.unavailable(target)
        if reason is not None:
            raise RuntimeUnavailableError(f"runtime {self.name} cannot be timed: {reason}")
        return OnnxSession(net.model, net.image, target.threads, target.timing)
