"""The report: every figure of a full run, a page that stands on its own, and what is missing is named."""

import json
import math
import re
import struct

import pytest
import typer
from typer.testing import CliRunner

from tvmfbnet.cli.report import report_command
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import Interval
from tvmfbnet.pipeline.closed_loop import Attempt, Timed
from tvmfbnet.report.page import write_report
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space

FIGURES = ("arch", "latency", "latency_map", "search", "theta", "training")


def search_history(space, epochs=12, warmup=3):
    """Records with the keys and nulls that a search writes: theta is still in the warm-up."""
    records = []
    for epoch in range(1, epochs + 1):
        searched = max(0, epoch - warmup)
        theta = [
            [0.25 * searched * math.cos(layer.index + 2.1 * column) for column in range(len(layer.blocks))]
            for layer in space.layers
        ]
        records.append(
            {
                "epoch": epoch,
                "phase": "search" if searched else "warm-up",
                "temperature": 5.0 * 0.9**searched,
                "weight_loss": 2.3 * 0.9**epoch,
                "weight_accuracy": 0.9 - 0.8 * 0.8**epoch,
                "theta_loss": 3.0 * 0.9**epoch if searched else None,
                "theta_accuracy": 0.88 - 0.8 * 0.8**epoch if searched else None,
                "expected_ms": 1.2 - 0.05 * searched,
                "entropy": 2.2 - 0.1 * searched,
                "theta": theta,
                "seconds": 10.0,
            }
        )
    return records


def train_history(epochs=8):
    """The net is only tested every second epoch."""
    return [
        {
            "epoch": epoch,
            "lr": 0.1,
            "train_loss": 2.0 * 0.8**epoch,
            "train_accuracy": 1 - 0.6 * 0.8**epoch,
            "test_accuracy": 1 - 0.65 * 0.82**epoch if epoch % 2 == 0 else None,
            "seconds": 5.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def table_record(space, name):
    """Cells that grow with the work; every third one is predicted."""
    cells = []
    for number, part in enumerate(space.distinct_parts()):
        expansion = int(part.block.split("_e")[1][0]) if "_e" in part.block else 1
        latency = 0.01 + 4e-7 * part.cin * part.cout * expansion * part.height * part.width / part.stride**2 / 4
        source = "predicted" if number % 3 == 2 else "measured"
        cost = {"latency_ms": latency, "spread_ms": 0.05 * latency, "source": source, "n": 10, "trials": 64}
        cells.append({"name": part.name, **part.to_dict(), **cost})
    return {"target": "pi4", "space": name, "overhead_ms": 0.02, "cells": cells}


def write_run(folder, name="fbnet_mini", without=(), only=None):
    """A run folder with all that a finished run has, or without some files, or with the given ones only."""
    space = load_space(name)
    arch = Arch(tuple(layer.blocks[(3 * layer.index + 3) % len(layer.blocks)] for layer in space.layers))
    text = format_arch(arch, space)
    history = search_history(space)
    best = {"arch": text, "probability": 0.1, "predicted_ms": 0.71, "accuracy": 0.8, "measured_share": 0.7}
    result = {
        "arch": text,
        "target": "pi4",
        "space": name,
        "predicted_ms": 0.71,
        "measured_ms": 0.74,
        "measured_spread_ms": 0.02,
        "verdict": "met",
        "verdict_kind": "met",
        "latency_target_ms": 0.8,
        "interval": {"low_ms": 0.72, "high_ms": 0.76, "confidence": 0.95, "visits": 9},
        "noise": 0.027,
        "advice": "",
        "speed_factor": {"description": "1.010 (0.990 to 1.030; 8 parts)"},
        "onnxruntime_ms": 1.31,
        "parity_error": 2.4e-6,
        "test_accuracy": 0.9123,
        "stage_seconds": {"tune": 4000.0, "search": 321.0, "train": 12.5},
        "kernels_needed": 20,
        "kernels_found": 19,
        "measured_share": 0.7,
        "tvm_target": '{"kind": "llvm", "note": "<b>"}',
        "threads": 4,
    }
    files = {
        "table.json": table_record(space, name),
        "search/history.json": history,
        "search/search.json": {
            "best": best,
            "expected_ms": 0.75,
            "latency_target_ms": 0.8,
            "theta": history[-1]["theta"],
            "space": space.to_dict(),
            "costs": {},
            "data": "fashion_mnist",
            "config": {},
        },
        "search/archs.json": [best],
        "train/history.json": train_history(),
        "result.json": result,
    }
    for path, value in files.items():
        if path in without or (only is not None and path not in only):
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(value))
    (folder / "recipe.yaml").write_text(f"space: {name}\n")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a full run, drawn once."""
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "demo"))


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def test_a_full_run_gives_every_figure_as_png_and_svg(page):
    assert page.parts[-3:] == ("demo", "report", "index.html")
    for name in FIGURES:
        path = page.parent / f"{name}.png"
        width, height = png_size(path)
        assert width > 800 and height > 200
        assert path.stat().st_size > 8000
        assert "</svg>" in path.with_suffix(".svg").read_text()
    assert len(list(page.parent.iterdir())) == 1 + 2 * len(FIGURES)


def test_the_page_stands_on_its_own(page):
    text = page.read_text()
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert 'name="viewport"' in text


def test_the_summary_tells_the_result(page):
    text = page.read_text()
    for expected in (
        "91.23%",
        "0.74 ± 0.02 ms",
        "1.010 (0.990 to 1.030; 8 parts)",
        "-4.1%",
        "1.31 ms",
        "0.8 ms",
        "19 of 20",
        "1 h 06 min",
        "&lt;b&gt;",
    ):
        assert expected in text
    assert "Left out" not in text


@pytest.mark.parametrize(
    ("kind", "verdict"), [("met", "met"), ("missed", "missed by 11.8 %"), ("undecided", "undecided (noise 9.1 %)")]
)
def test_the_verdict_is_the_first_thing_on_the_page(tmp_path, kind, verdict):
    run = write_run(tmp_path, only=["result.json", "table.json"])
    result = json.loads((run / "result.json").read_text())
    advice = "" if kind == "met" else "stop other work on the device"
    (run / "result.json").write_text(json.dumps({**result, "verdict": verdict, "verdict_kind": kind, "advice": advice}))
    text = write_report(run).read_text()
    after = text[text.index("</h1>") :]
    assert after.startswith(f'</h1>\n<p class="verdict {kind}">Latency target 0.8 ms: <strong>{verdict}</strong>')
    assert "Measured 0.74 ms (0.72 to 0.76), 95% interval over 9 visits." in after
    assert ("Advice: stop other work on the device." in after) == bool(advice)


def test_a_run_without_a_target_has_no_verdict(tmp_path):
    run = write_run(tmp_path, only=["result.json"])
    result = json.loads((run / "result.json").read_text())
    nothing = dict.fromkeys(("verdict", "verdict_kind", "latency_target_ms", "advice", "speed_factor"))
    (run / "result.json").write_text(json.dumps({**result, **nothing}))
    assert 'class="verdict' not in write_report(run).read_text()


def test_nets_that_were_timed_are_told_as_measured_with_the_speed_factor_beside(tmp_path):
    run = write_run(tmp_path, only=["result.json", "table.json"])
    interval = Interval(0.1254, 0.1235, 0.1275, 9)
    speed = SpeedFactor(Interval(1.328, 1.31, 1.34, 9), 8, 0.02, (1.0, 1.1), True)
    attempt = Attempt("k3_e1", 0.1139, 0.7, Timed(interval, speed), 0.1139)
    loop = {"target_ms": 0.1139, "arch": "k3_e1", "attempts": [attempt.to_dict()]}
    (run / "closed_loop.json").write_text(json.dumps(loop))
    text = write_report(run).read_text()
    for told in ("0.1254 (0.1235 to 0.1275)", "1.328 (1.310 to 1.340; 8 parts", "0.09443", "missed by 10.1 %"):
        assert told in text
    (run / "closed_loop.json").write_text(json.dumps({"attempts": [{"verdict": "met"}]}))
    with pytest.raises(StorageError, match=r"closed_loop\.json"):
        write_report(run)


@pytest.mark.parametrize(
    "gone",
    [
        {"table.json": ["latency_map"], "train/history.json": ["training"]},
        {"search/history.json": ["search", "theta"], "result.json": ["latency"]},
    ],
)
def test_what_is_missing_is_named_and_its_figure_left_out(tmp_path, gone):
    run = write_run(tmp_path, without=gone)
    absent = {name for names in gone.values() for name in names}
    (run / "report").mkdir()
    for name in absent:
        (run / "report" / f"{name}.png").write_text("of an earlier report")
    text = write_report(run).read_text()
    assert {path.stem for path in (run / "report").glob("*.png")} == set(FIGURES) - absent
    assert text.count("Left out") == len(absent)
    for path in gone:
        assert f"this run has no {path} yet" in text


def test_a_run_that_has_only_begun_gets_a_page_without_figures(tmp_path):
    (tmp_path / "recipe.yaml").write_text("space: fbnet_mini\n")
    text = write_report(tmp_path).read_text()
    assert text.count("Left out") == len(FIGURES)
    assert "not finished" in text
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_a_run_of_a_users_own_space_that_has_only_been_tuned_gets_a_page(tmp_path):
    run = write_run(tmp_path, only=["table.json"])
    record = json.loads((run / "table.json").read_text())
    (run / "table.json").write_text(json.dumps({**record, "space": "my_own"}))
    assert "this run has no search space" in write_report(run).read_text()


def test_a_search_of_one_epoch_is_drawn(tmp_path):
    run = write_run(tmp_path, only=["search/history.json", "table.json"])
    history = json.loads((run / "search/history.json").read_text())[:1]
    (run / "search/history.json").write_text(json.dumps(history))
    write_report(run)
    assert (run / "report" / "theta.png").stat().st_size > 8000
    assert (run / "report" / "search.png").stat().st_size > 8000


def test_a_result_without_onnx_runtime_or_spread_is_drawn(tmp_path):
    run = write_run(tmp_path, only=["result.json"])
    result = json.loads((run / "result.json").read_text())
    result.update(onnxruntime_ms=None, measured_spread_ms=None)
    (run / "result.json").write_text(json.dumps(result))
    text = write_report(run).read_text()
    assert "<th>ONNX Runtime</th>" not in text
    labels = svg_comments(run / "report" / "latency.svg")
    assert "0.74 ms" in labels
    assert not any("ONNX" in label for label in labels)


def svg_comments(path):
    """The texts of a figure: SVG keeps each as a comment beside its outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_the_heat_map_tells_measured_predicted_and_free_apart(tmp_path):
    run = write_run(tmp_path, only=["table.json"])
    write_report(run)
    svg = run / "report" / "latency_map.svg"
    texts = svg_comments(svg)
    layers = load_space("fbnet_mini").layers
    free = sum(layer.part("skip") is None for layer in layers)
    assert texts.count("free") == free > 0
    assert {"measured", "predicted"} <= set(texts)
    hatched = svg.read_text().count("url(#h")
    record = json.loads((run / "table.json").read_text())
    for cell in record["cells"]:
        cell["source"] = "measured"
    (run / "table.json").write_text(json.dumps(record))
    write_report(run)
    assert svg.read_text().count("url(#h") == 1 < hatched  # what remains is the legend's


def test_a_net_without_latencies_is_drawn_not_to_scale(tmp_path):
    run = write_run(tmp_path, only=["result.json"])
    write_report(run)
    assert any("not to scale" in text for text in svg_comments(run / "report" / "arch.svg"))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("table.json", '{"cells": [{"part": "block"}]}'),
        ("table.json", "[]"),
        ("search/history.json", '[{"epoch": 1}]'),
        ("train/history.json", '[{"epoch'),
        ("result.json", '{"arch": "nonsense"}'),
        ("result.json", '{"measured_ms": "fast"}'),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, path, content):
    run = write_run(tmp_path, only=["search/search.json"])
    (run / path).parent.mkdir(exist_ok=True)
    (run / path).write_text(content)
    with pytest.raises(StorageError, match=re.escape(path)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no run folder .*absent"):
        write_report(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is not a run \(no recipe.yaml\)"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_the_command_prints_the_page(tmp_path):
    run = write_run(tmp_path, only=["train/history.json"])
    app = typer.Typer()
    app.command()(report_command)
    outcome = CliRunner().invoke(app, [str(run), "--json"])
    assert outcome.exit_code == 0, outcome.output
    answer = json.loads(outcome.stdout)
    assert answer["page"].endswith("index.html")
    assert answer["figures"] == [str(run / "report" / "training.png")]
