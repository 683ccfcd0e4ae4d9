"""Kernel times of parts are derived from the trials of their kernels; nothing else stores them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from latency_samples import CONTEXT, measurement, tuned_kernels

from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernel_map import load_kernel_times, save_kernels
from tvmfbnet.latency.repository import journal_path, kernels_path, load_table
from tvmfbnet.latency.trial_times import best_times
from tvmfbnet.space.registry import load_space

PARTS = load_space("fbnet").distinct_parts()


def log_of(folder: Path, *lines: object) -> Path:
    path = folder / "database" / "trials.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def trial(kernel: str, best_ms: object, kind: str = "") -> dict[str, object]:
    return {"task": kernel, "kind": kind, "best_ms": best_ms}


def test_the_fastest_valid_trial_of_each_kernel_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_of(
        tmp_path,
        *(trial("a", 3.0), trial("a", 2.0), trial("a", 1.0, "timeout"), trial("a", 0.0), trial("b", None, "build")),
        *(trial("b", float("inf")), trial("c", 0.5), "[1]", '{"torn": ', trial("c", "fast")),
    )
    assert best_times(path) == {"a": 2.0, "c": 0.5}
    assert capsys.readouterr().err.count("is no valid trial and is skipped") == 3
    assert best_times(tmp_path / "absent.jsonl") == {}


def test_a_part_takes_its_kernels_as_often_as_it_calls_them(tmp_path: Path) -> None:
    path, log = tmp_path / "kernels.json", log_of(tmp_path, trial("a", 0.5), trial("b", 0.25))
    kernels = {PARTS[0]: {"a": 1, "b": 2}, PARTS[1]: {"a": 1, "never tried": 1}, PARTS[2]: {}}
    save_kernels(path, CONTEXT, log, kernels)
    assert load_kernel_times(path, CONTEXT) == {PARTS[0]: 1.0}, "a kernel without a trial leaves its part out"
    log_of(tmp_path, trial("a", 0.5), trial("b", 0.25), trial("never tried", 0.1), trial("b", 0.2))
    times = load_kernel_times(path, CONTEXT)
    assert times == pytest.approx({PARTS[0]: 0.9, PARTS[1]: 0.6}), "further trials count without another writer"
    log.unlink()
    assert load_kernel_times(path, CONTEXT) == {}, "the log owns the times"


def test_the_file_holds_no_times(tmp_path: Path) -> None:
    tuned_kernels(tmp_path / "kernels.json", CONTEXT, {PARTS[0]: 0.123456})
    assert "0.123456" not in (tmp_path / "kernels.json").read_text()
    assert json.loads((tmp_path / "kernels.json").read_text())["schema_version"] == 3


def test_kernels_are_kept_for_one_context_and_their_times_reach_the_table(tmp_path: Path) -> None:
    record = measurement(PARTS[4])
    Journal(journal_path("host", tmp_path)).append(record)
    path = kernels_path("host", tmp_path)
    assert load_kernel_times(path, record.context) == {} == load_table("host", tmp_path).kernel_ms
    first, second = {PARTS[4]: 0.5, PARTS[5]: 0.25}, {PARTS[5]: 0.2, PARTS[6]: 0.1}
    tuned_kernels(path, record.context, first)
    tuned_kernels(path, record.context, second)
    both = {**first, **second}
    assert load_kernel_times(path, record.context) == both == load_table("host", tmp_path).kernel_ms
    other = replace(CONTEXT, device_model="Another CPU")
    assert load_kernel_times(path, other) == {}, "times of another context serve none but that one"
    tuned_kernels(path, other, {PARTS[4]: 9.0}, log="database-other")
    assert load_kernel_times(path, other) == {PARTS[4]: 9.0}
    assert load_kernel_times(path, record.context) == both, "and are not thrown away for it"


def test_sums_that_an_earlier_version_stored_serve_until_the_part_is_tuned_again(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    parts = [{**part.to_dict(), "kernel_ms": ms} for part, ms in zip(PARTS, (0.5, 0.25, -1.0), strict=False)]
    contexts = {CONTEXT.key: {"context": CONTEXT.to_dict(), "parts": parts}}
    path.write_text(json.dumps({"schema_version": 2, "contexts": contexts}))
    assert load_kernel_times(path, CONTEXT) == {PARTS[0]: 0.5, PARTS[1]: 0.25}
    tuned_kernels(path, CONTEXT, {PARTS[1]: 0.2})
    assert load_kernel_times(path, CONTEXT) == {PARTS[0]: 0.5, PARTS[1]: 0.2}


@pytest.mark.parametrize("text", ["[" * 99_999, "[]", '{"schema_version": 99}', '{"schema_version": 1, "context": {}}'])
def test_a_file_of_another_form_is_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    assert load_kernel_times(path, CONTEXT) == {}
    tuned_kernels(path, CONTEXT, {PARTS[0]: 1.0})
    assert load_kernel_times(path, CONTEXT) == {PARTS[0]: 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": "../elsewhere/trials.jsonl"},
        {"trials": "/etc/passwd"},
        {"trials": 3},
        {"parts": [{**PARTS[0].to_dict(), "kernels": {"a": 0}}]},
        {"parts": [{**PARTS[0].to_dict(), "kernels": [1]}]},
        {"parts": [PARTS[0].to_dict()]},
        {"parts": [{"kernels": {"a": 1}}]},
    ],
)
def test_an_entry_that_cannot_be_right_is_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    path, log = tmp_path / "kernels.json", log_of(tmp_path, trial("a", 0.5))
    save_kernels(path, CONTEXT, log, {PARTS[0]: {"a": 1}})
    assert load_kernel_times(path, CONTEXT) == {PARTS[0]: 0.5}
    content = json.loads(path.read_text())
    content["contexts"][CONTEXT.key].update(changes)
    path.write_text(json.dumps(content))
    assert load_kernel_times(path, CONTEXT) == {}
