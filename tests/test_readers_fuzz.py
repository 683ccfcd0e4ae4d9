"""Whatever a file holds, a reader gives a value or a user's error in one line: never a traceback, never a hang."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import tvmfbnet.pipeline
from tvmfbnet.config import validate
from tvmfbnet.errors import UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.additivity import load_correction, save_study, study
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.kernel_map import load_kernel_times, save_kernels
from tvmfbnet.latency.regressor import LatencyRegressor
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, write_table
from tvmfbnet.pipeline.recipe import load_recipe
from tvmfbnet.report.page import _page, read_run
from tvmfbnet.run_files import FILES, read_run_file
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.schema import build_space
from tvmfbnet.targets.definition import load_target
from tvmfbnet.training.config import TrainConfig

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
few = settings(quick, max_examples=20)

HOSTILE = [
    *(None, True, False, -1, 0, 1, 10**30, -(10**30), 0.5, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
    *("", "x", "x" * 5000, "k3_e1", "k3_e1_g7", "1_0", "\u0663", "\x00", "a\nb", "../..", "2024-13-45", "1e999"),
    *([], {}, [[]], [1, 2], {"a": 1}, [None] * 100, {"": None}),
]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """``value`` with one to three places replaced, left out, given twice or added to."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        holder = value
        for _ in range(draw(st.integers(0, 8))):
            inner = [
                item
                for item in (holder.values() if isinstance(holder, dict) else holder)
                if isinstance(item, dict | list) and item
            ]
            if not inner:
                break
            holder = inner[draw(st.integers(0, min(len(inner), 40) - 1))]
        if not holder:
            continue
        places = list(holder) if isinstance(holder, dict) else range(len(holder))
        place = places[draw(st.integers(0, len(places) - 1))]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if what == "replace":
            holder[place] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        elif what == "remove":
            del holder[place]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        else:
            holder.append(copy.deepcopy(holder[place]))
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` cut short, or with some bytes replaced, inserted or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        what = draw(st.sampled_from(["cut", "replace", "insert", "repeat", "remove"]))
        piece = draw(
            st.sampled_from(
                [
                    b"\x00",
                    b"\xff",
                    b"\xff\xfe",
                    b"\n",
                    b",",
                    b";",
                    b'"',
                    b"[" * 999,
                    b"{",
                    b"&a *a",
                    b"!!int x",
                    b"9" * 5000,
                    "٣".encode(),
                ]
            )
        )
        length = draw(st.integers(1, 30))
        content = {
            "cut": content[:at],
            "replace": content[:at] + piece + content[at + len(piece) :],
            "insert": content[:at] + piece + content[at:],
            "repeat": content[: at + length] + content[at:],
            "remove": content[:at] + content[at + length :],
        }[what]
    return content


def read_or_refuse(read: Any, *arguments: Any) -> None:
    """Calls a reader; what it raises must be a user's error of one line."""
    try:
        read(*arguments)
    except UserError as error:
        said = " ".join(str(error).split())
        assert 0 < len(said) < 10_000


def settings_of(path: Path) -> None:
    values = read_yaml(path)
    validate(SearchConfig, values.get("search", values), str(path))
    validate(TrainConfig, values.get("train", values), str(path))


def space_values() -> dict[str, Any]:
    import tvmfbnet.space

    return read_yaml(Path(tvmfbnet.space.__file__).parent / "definitions" / "fbnet_mini.yaml")


def target_values() -> dict[str, Any]:
    return load_target("host").model_dump(mode="json")


def recipe_values() -> dict[str, Any]:
    return read_yaml(Path(tvmfbnet.pipeline.__file__).parent / "recipes/demo.yaml")


YAML_READERS = {
    "space": (space_values, load_space),
    "target": (target_values, load_target),
    "recipe": (recipe_values, load_recipe),
    "settings": (recipe_values, lambda path: settings_of(Path(path))),
}


@pytest.mark.parametrize("name", YAML_READERS)
@quick
@given(data=st.data())
def test_yaml_files(tmp_path, name, data):
    values, read = YAML_READERS[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data.draw(changed(values()))), encoding="utf-8")
    read_or_refuse(read, str(path))
    path.write_bytes(data.draw(damaged(yaml.safe_dump(values()).encode())))
    read_or_refuse(read, str(path))


SPACE = build_space(space_values(), "fbnet_mini", "fbnet_mini.yaml")
TABLE = LatencyTable({part: Cell(0.01 + count_part(part).macs / 1e6, 0.001) for part in SPACE.distinct_parts()}, 0.005)


@quick
@given(data=st.data())
def test_csv_tables(tmp_path, data):
    write_table(TABLE, tmp_path / "good.csv")
    good = (tmp_path / "good.csv").read_bytes()
    rows = [line.split(",") for line in good.decode().splitlines()]
    table = "\n".join(
        ",".join(str(field) for field in row) if isinstance(row, list) else str(row) for row in data.draw(changed(rows))
    )
    (tmp_path / "t.csv").write_text(table, encoding="utf-8", errors="surrogatepass")
    read_or_refuse(read_table, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(data.draw(damaged(good)))
    read_or_refuse(read_table, tmp_path / "t.csv")


@few
@given(data=st.data())
def test_parquet_tables(tmp_path, data):
    write_table(TABLE, tmp_path / "good.parquet")
    rows = parquet.read_table(tmp_path / "good.parquet").to_pylist()[:5]
    try:
        parquet.write_table(pyarrow.Table.from_pylist(data.draw(changed(rows))), tmp_path / "t.parquet")
    except (pyarrow.ArrowException, TypeError, AttributeError, ValueError, OverflowError):
        return  # nothing that Parquet could hold
    read_or_refuse(read_table, tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[: data.draw(st.integers(0, 3000))])
    read_or_refuse(read_table, tmp_path / "t.parquet")


@quick
@given(data=st.data())
def test_json_tables(tmp_path, data):
    write_table(TABLE, tmp_path / "good.json")
    good = json.loads((tmp_path / "good.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(data.draw(changed(good))), encoding="utf-8")
    read_or_refuse(read_table, tmp_path / "t.json")
    (tmp_path / "t.json").write_bytes(data.draw(damaged(json.dumps(good).encode())))
    read_or_refuse(read_table, tmp_path / "t.json")


PROCESSOR = {"name": "core", "gflops": 16, "gbps": 8.5, "kernel_us": 2, "call_us": 20, "element_bytes": 4}


@quick
@given(data=st.data())
def test_simulated_processors(tmp_path, data):
    def use(text: str) -> None:
        table = LatencyTable.load(text, SPACE)
        assert all(math.isfinite(cell.latency_ms) and cell.latency_ms >= 0 for cell in table.cells.values())

    path = tmp_path / "core.yaml"
    path.write_text(yaml.safe_dump(data.draw(changed(PROCESSOR))), encoding="utf-8")
    read_or_refuse(use, f"simulated:{path}")
    text = ",".join(f"{name}={value}" for name, value in PROCESSOR.items())
    read_or_refuse(use, "simulated:" + data.draw(damaged(text.encode())).decode(errors="replace"))


@few
@given(data=st.data())
def test_kernels_and_their_trials(tmp_path, data):
    """Neither stops a table from being loaded: what they lack is predicted from shapes."""
    path, log = tmp_path / "kernels.json", tmp_path / "database" / "trials.jsonl"
    log.parent.mkdir(exist_ok=True)
    parts = list(TABLE.cells)[:5]
    trials = [{"task": part.name, "kind": "", "best_ms": 0.5} for part in parts]
    context = Context("host", "", "0.27.0", "", "{}", 1, "float32", "NHWC", "in_net")
    log.write_text("".join(f"{json.dumps(trial)}\n" for trial in data.draw(changed(trials))), encoding="utf-8")
    path.unlink(missing_ok=True)
    save_kernels(path, context, log, {part: {part.name: 2} for part in parts})
    good = json.loads(path.read_text())
    times = load_kernel_times(path, context)
    assert set(times) <= set(parts) and all(math.isfinite(ms) and ms > 0 for ms in times.values())
    path.write_text(json.dumps(data.draw(changed(good))), encoding="utf-8")
    load_kernel_times(path, context)
    path.write_bytes(data.draw(damaged(json.dumps(good).encode())))
    load_kernel_times(path, context)


def run_values() -> dict[str, Any]:
    """The files of a finished run, as small as they can be."""
    arch = format_arch(Arch(tuple(layer.blocks[0] for layer in SPACE.layers)), SPACE)
    epoch = {"epoch": 1, "phase": "search", "temperature": 5.0, "weight_loss": 1.0, "weight_accuracy": 0.5}
    epoch |= {
        "theta_loss": 1.0,
        "theta_accuracy": 0.5,
        "expected_ms": 1.0,
        "theta": [[0.0] * len(layer.blocks) for layer in SPACE.layers],
    }
    best = {"arch": arch, "probability": 0.1, "predicted_ms": 1.0, "accuracy": 0.5, "spread_ms": 0.1}
    front_net = {**best, "bound_ms": 1.5, "accuracy_spread": 0.01, "evaluated_accuracy": 0.5}
    interval = {"low_ms": 0.9, "high_ms": 1.1, "confidence": 0.95, "visits": 9}
    attempt = {"arch": arch, "table_ms": 1.0, "verdict": "met", "measured_ms": 1.0, "interval": interval}
    attempt |= {"speed_factor": None, "at_table_speed_ms": None}
    attempt |= {"turn": 1, "predicted_ms": 1.0, "factor": None, "next": "no other net"}
    loop = {"target_ms": 1.0, "arch": arch, "attempts": [attempt], "kept_turn": 1, "why": "the net of turn 1"}
    notices = [{"kind": "few_images", "text": "few images"}]
    cells = TABLE.to_records(SPACE.distinct_parts())
    tuning = {"epochs": 1, "images": 500, "accuracy": 0.9, "untuned_accuracy": 0.875, "kept": True}
    return {
        "state.json": {"tune": 1.0, "search": 2.5},
        "table.json": {"target": "host", "space": SPACE.to_dict(), "overhead_ms": 0.1, "cells": cells},
        "search/archs.json": [best, best],
        "search/search.json": {"best": best, "latency_target_ms": 1.0, "space": SPACE.to_dict(), "notices": notices},
        "search/front.json": {"strategy": "random", "evaluations": 2, "spent_images": 1.0, "nets": [front_net]},
        "search/history.json": [epoch, epoch],
        "train/history.json": [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.1, "test_accuracy": 0.5}],
        "closed_loop.json": loop,
        "bench.json": {"latency_ms": 1.0, "spread_ms": 0.1, "interval": interval, "noise": 0.1, "speed_factor": None,
                       "onnxruntime_ms": None, "device": {"model": "a CPU", "cores": "2"}, "time": "2026-02-03T04:05"},
        "parity.json": {"parity_error": 1e-6},
        "fine_tuning/fine_tuning.json": tuning,
        "result.json": {"arch": arch, "target": "host", "space": "fbnet_mini", "predicted_ms": 1.0, "measured_ms": 1.0,
                        "stage_seconds": {"tune": 1.0}, "kernels_needed": 1, "kernels_found": 1, "threads": 1,
                        "notices": notices, "closed_loop": loop, "fine_tuning": tuning},
        "package/package.json": {"arch": arch},
    }  # fmt: skip


def write_run(folder: Path, values: dict[str, Any]) -> None:
    (folder / "recipe.yaml").write_text("space: fbnet_mini\n")
    for name, value in values.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def use_run(folder: Path) -> None:
    run = read_run(folder)
    _page(run, [], [])


def test_an_undamaged_run_is_read(tmp_path):
    values = run_values()
    assert set(values) == set(FILES)
    write_run(tmp_path, values)
    assert [read_run_file(tmp_path, name) for name in FILES] == [values[name] for name in FILES]
    assert read_run(tmp_path).arch is not None


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_run_files(tmp_path, name, data):
    values = run_values()
    write_run(tmp_path, values)
    (tmp_path / name).write_text(json.dumps(data.draw(changed(values[name]))), encoding="utf-8")
    read_or_refuse(read_run_file, tmp_path, name)
    read_or_refuse(use_run, tmp_path)
    (tmp_path / name).write_bytes(data.draw(damaged(json.dumps(values[name]).encode())))
    read_or_refuse(read_run_file, tmp_path, name)
    read_or_refuse(use_run, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_run_file_is_named(tmp_path, name):
    write_run(tmp_path, run_values())
    (tmp_path / name).write_text('{"half": ')
    with pytest.raises(UserError, match=name):
        read_run_file(tmp_path, name)


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    path = tmp_path_factory.mktemp("regressor") / "good.json"
    parts = [part for part in TABLE.cells if not part.is_identity][:12]
    LatencyRegressor().fit(parts, [TABLE.cells[part].latency_ms for part in parts]).save(path)
    return json.loads(path.read_text())


@few
@given(data=st.data())
def test_regressors(tmp_path, regressor, data):
    def use(path: Path) -> None:
        LatencyRegressor.load(path).predict(list(TABLE.cells)[:5])

    (tmp_path / "r.json").write_text(json.dumps(data.draw(changed(regressor))))
    read_or_refuse(use, tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(data.draw(damaged(json.dumps(regressor).encode())))
    read_or_refuse(use, tmp_path / "r.json")


@pytest.mark.parametrize(
    "change",
    [
        {"left_children": 10**9}, {"left_children": 0}, {"right_children": -5}, {"split_indices": 10**6},
        {"split_type": 1}, {"parents": 7},
    ],
)  # fmt: skip
def test_no_tree_that_leads_out_of_its_arrays_reaches_xgboost(tmp_path, regressor, change):
    value = copy.deepcopy(regressor)
    tree = value["members"]["forests"][0]["learner"]["gradient_booster"]["model"]["trees"][0]
    ((name, to),) = change.items()
    tree[name][1 if name == "parents" else 0] = to
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"r\.json is damaged"):
        LatencyRegressor.load(tmp_path / "r.json")


@few
@given(data=st.data())
def test_corrections(tmp_path, data):
    archs = [
        format_arch(Arch(tuple(layer.blocks[n % len(layer.blocks)] for layer in SPACE.layers)), SPACE) for n in range(6)
    ]
    validation = study(TABLE, SPACE, {arch: 1.0 + number for number, arch in enumerate(archs)})
    save_study(validation, TABLE, tmp_path / "c.json")
    assert load_correction(tmp_path / "c.json", TABLE) == validation.correction
    value = json.loads((tmp_path / "c.json").read_text())

    def use(path: Path) -> None:
        correction = load_correction(path, TABLE)
        if correction is not None:
            correction.apply(TABLE).range_ms(SPACE)

    (tmp_path / "c.json").write_text(json.dumps(data.draw(changed(value))))
    read_or_refuse(use, tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(data.draw(damaged(json.dumps(value).encode())))
    read_or_refuse(use, tmp_path / "c.json")
