"""Tuning a space from start to end promises: one lock, one seed, and figures kept for the context that they are of."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.latency.kernel_map import load_kernel_times
from tvmfbnet.latency.repository import kernels_path
from tvmfbnet.pipeline import tuning
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def test_the_seed_reaches_the_draw_of_neighbours_and_all_is_done_under_the_targets_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what needs a device is replaced: what it is given is looked at."""
    target = resolve(load_target("host"))
    context = context_of(target, {"model": "Some CPU", "threads": "1", "allowed_cores": "0"})
    given: dict[str, object] = {}

    @contextmanager
    def endpoint(*_: object):  # type: ignore[no-untyped-def]
        yield Endpoint("127.0.0.1", 1, "host")

    def measure(*arguments: object) -> int:
        given["seed"], given["context"] = arguments[-2:]
        lock = FileLock(tmp_path / "host" / ".lock", thread_local=False)
        given["locked"] = not _free(lock)
        return 0

    plan = SimpleNamespace(target=target, tasks=(), kernels={}, parts={}, blocks=0, gpu_templated=frozenset())
    monkeypatch.setattr(tuning, "plan_space", lambda *_: plan)
    monkeypatch.setattr(tuning, "_say_plan", lambda *_: None)
    monkeypatch.setattr(tuning, "connect_device", endpoint)
    monkeypatch.setattr(tuning, "ask_context", lambda _, address: (context, address))
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(tuning, "device_timer", endpoint)
    monkeypatch.setattr(tuning, "measure_parts", measure)
    tuning.tune_space(load_space("fbnet_mini"), target, TuneOptions(trials=1, seed=41), tmp_path)
    assert given == {"seed": 41, "context": context, "locked": True}
    assert load_kernel_times(kernels_path("host", tmp_path), context) == {}
    assert _free(FileLock(tmp_path / "host" / ".lock"))


def _free(lock: FileLock) -> bool:  # type: ignore[valid-type]
    try:
        with lock.acquire(timeout=0):  # type: ignore[attr-defined]
            return True
    except TimeoutError:
        return False


def test_a_dry_run_counts_only_the_trials_of_todays_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = resolve(load_target("host"))
    folder = tmp_path / "host" / "database"
    folder.mkdir(parents=True)
    (folder / "trials.jsonl").write_text('{"task": "a", "kind": "", "best_ms": 1.0}\n')
    assert tuning.log_of(host, tmp_path).spent.total() == 0
    assert "unknown TVM and device" in capsys.readouterr().err
    assert TrialLog(folder / "trials.jsonl").spent.total() == 1
