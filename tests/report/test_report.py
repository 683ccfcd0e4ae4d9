"""The report: every figure of a full run, a page that stands on its own, and what is missing is named."""

import html
import json
import math
import re
import shlex
import struct
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tvmfbnet.cli.main import app
from tvmfbnet.cli.report import report_command
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.latency.additivity import study
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.origin import timed_latency
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.units import unit_for
from tvmfbnet.latency.verdict import Interval
from tvmfbnet.pipeline.closed_loop import Attempt, Timed
from tvmfbnet.report.blocks import block_colour
from tvmfbnet.report.canvas import NARROW, WIDE
from tvmfbnet.report.figures import additivity
from tvmfbnet.report.page import write_report
from tvmfbnet.report.pareto import pareto_figure
from tvmfbnet.report.run_data import read_run
from tvmfbnet.report.summary import _constraints, binding
from tvmfbnet.report.table_figure import latency_map
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.counts import count_arch
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
    blocks = [layer.blocks[(3 * layer.index + 3) % len(layer.blocks)] for layer in space.layers]
    arch = Arch((blocks[0], "skip", *blocks[2:]))
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
        "machine": "a laptop",
    }
    device = {"model": "Raspberry Pi 4 Model B", "machine": "aarch64", "cores": "4", "system": "Linux", "kernel": "6.1"}
    bench = {
        **{name: result[name] for name in ("interval", "noise", "speed_factor", "onnxruntime_ms")},
        **{"latency_ms": 0.74, "spread_ms": 0.02, "device": device, "time": "2026-02-03T04:05:06+00:00"},
    }
    files = {
        "bench.json": bench,
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
    seeds = {"tune": {"seed": 7}, "search": {"seed": 8}, "train": {"seed": 7}}
    (folder / "recipe.yaml").write_text(json.dumps({"space": name, **seeds}))
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
    assert not re.search(r"https?://|<script|<link|<img|src=|@import|url\((?!#)", text)
    assert 'name="viewport"' in text


def test_figures_reflow_each_is_drawn_for_a_page_and_for_a_phone_and_has_no_size_of_its_own(page):
    text = page.read_text()
    drawn = re.findall(r'<figure class="(\w+)"><svg ([^>]*)>', text)
    assert [kind for kind, _ in drawn] == ["wide", "narrow"] * len(FIGURES)
    widths = {"wide": set(), "narrow": set()}
    for kind, attributes in drawn:
        widths[kind].add(float(re.search(r'viewBox="0 0 ([\d.]+) ', attributes)[1]))
        assert not re.search(r"\b(width|height)=", attributes)
        assert re.search(r'aria-label="\w', attributes)
    # In points, three quarters of a pixel: on a phone of 380 pixels the letters have the size they were drawn in.
    assert max(widths["narrow"]) / 0.75 < 380 < 600 < min(widths["wide"]) / 0.75
    sizes = re.findall(
        r"font-size: ([\d.]+)px", "".join(re.findall(r'<figure class="narrow">.*?</figure>', text, re.S))
    )
    assert min(map(float, sizes)) / 0.75 >= 9.5
    assert re.search(r"@media \(max-width: \d+px\) \{\s*figure.wide \{ display: none; \}", text)


def test_no_two_figures_of_the_page_share_an_id(page):
    text = page.read_text()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 100
    references = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert references and set(references) <= set(ids)


def test_the_report_names_the_constraint_that_binds():
    def check(quantity, value, bound):
        return {"quantity": quantity, "unit": "", "value": value, "bound": bound, "met": value <= bound}

    checks = [check("latency", 5.0, 8.0), check("peak_memory", 1.96e6, 2e6), check("size", 3e6, 6e6)]
    assert binding(checks) == "peak_memory, at 98% of its bound"
    assert binding([checks[0], checks[2]]) == "none: the nearest, latency, is at 62% of its bound"
    assert binding([]) is None


def test_constraints_are_listed_in_the_unit_of_the_other_latencies():
    checks = [
        {"quantity": "latency", "value": 0.0287, "bound": 0.0295, "met": None},
        {"quantity": "params", "value": 49610, "bound": 4.5e6, "met": True},
    ]
    assert _constraints({"constraints": checks}, unit_for([0.0287])) == [
        ("Constraint on latency", "28.7 µs of at most 29.5 µs: undecided"),
        ("Constraint on params", "49.61k of at most 4.5M: met"),
    ]


def test_the_summary_tells_the_result(page):
    text = page.read_text()
    for expected in (
        "91.23%",
        "740 µs (720 to 760 µs, 95% interval)",
        "1.010 (0.990 to 1.030; 8 parts)",
        "710 µs (-4.1% against the measured one, 70% of it from measured blocks)",
        "1310 µs (the package takes 0.56 of its time)",
        "800 µs",
        "19 of 20",
        "&lt;b&gt;",
    ):
        assert expected in text
    assert "Left out" not in text


def rows(text, heading):
    """The table below a heading of a page, name to value, tags taken out."""
    table = text[text.index(f"<h2>{heading}</h2>") :].split("</table>")[0]
    cells = re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", table)
    return {html.unescape(re.sub("<[^>]*>", "", name)): html.unescape(re.sub("<[^>]*>", "", v)) for name, v in cells}


def test_the_page_says_what_the_net_is_and_when_where_and_of_what_it_was_made(page):
    text = page.read_text()
    space = load_space("fbnet_mini")
    counts = count_arch(parse_arch(rows(text, "The found net")["Arch"], space), space)
    net, made = rows(text, "The found net"), rows(text, "How it was made")
    assert (net["Parameters"], net["MACs for one image"]) == (f"{counts.params:,}", f"{counts.macs:,}")
    assert made["Date"] == "2026-02-03 04:05 UTC"
    assert made["Device"] == "Raspberry Pi 4 Model B, aarch64, 4 cores, Linux 6.1"
    assert (made["Target"], made["Threads"], made["Machine that searched and trained"]) == ("pi4", "4", "a laptop")
    assert made["Data set"] == "fashion_mnist (32x32, 1 channel, 10 classes)"
    assert made["Seeds"] == "tune 7, search 8, train 7"


def test_the_command_that_does_the_same_runs_the_recipe_of_the_run(page):
    run = page.parent.parent
    program, command, recipe, *options = shlex.split(
        rows(page.read_text(), "How it was made")["Command that does the same"]
    )
    assert (program, command, options[0]) == ("tvmfbnet", "run", "--out")
    assert Path(recipe).samefile(run / "recipe.yaml") and options[1] == str(run.with_name("demo-again"))
    context = typer.main.get_command(app).commands["run"].make_context("run", [recipe, *options])
    assert context.params["recipe"] == recipe


def test_stages_are_numbered_as_the_command_numbers_them(page):
    assert rows(page.read_text(), "Time by stage") == {
        "1/6 tune": "1 h 06 min",
        "2/6 search": "5 min 21 s",
        "3/6 train": "12.5 s",
        "all": "1 h 12 min",
    }


def test_terms_are_explained_on_hover_and_below_where_they_occur_and_only_then(page, tmp_path):
    text = page.read_text()
    for term in ("MACs", "Theta", "Speed factor"):
        assert re.search(rf'<abbr title="[^"]{{20,}}">{term}</abbr>', text), term
    terms = re.findall(r"<dt>(.*?)</dt><dd>.{20,}</dd>", text)
    assert {"arch", "block", "interval", "MACs", "parity", "predicted", "speed factor", "temperature", "theta"} <= set(
        terms
    )
    (tmp_path / "recipe.yaml").write_text("space: fbnet_mini\n")
    assert "<dt>theta</dt>" in text and "<dt>parity</dt>" not in write_report(tmp_path).read_text()


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
    assert after.startswith(f'</h1>\n<p class="verdict {kind}">Latency target 800 µs: <strong>{verdict}</strong>')
    assert "Measured 740 µs (720 to 760), 95% interval over 9 measurement passes." in after
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
    turn = {"turn": 1, "predicted_ms": 0.12, "next": "no other net: this was the last of 1 turns"}
    loop = {"target_ms": 0.1139, "arch": "k3_e1", "attempts": [{**attempt.to_dict(), **turn}]}
    loop["why"] = "the net of turn 1: no other one was timed"
    (run / "closed_loop.json").write_text(json.dumps(loop))
    text = write_report(run).read_text()
    told = rows(text, "Closed loop: nets that were timed before one was trained")
    assert '<h3>Turn 1: <span class="arch">k3_e1</span> (kept)</h3>' in text
    assert "<p>Kept the net of turn 1: no other one was timed.</p>" in text
    assert told["what followed, and why"] == turn["next"]
    assert told["predicted, corrected by the turn before, µs"] == "120"
    assert told["predicted by the table, µs"] == "113.9" and told["measured, µs"] == "125.4 (123.5 to 127.5)"
    assert told["speed factor"].startswith("1.328 (1.310 to 1.340; 8 parts")
    assert told["at the table's speed, µs"] == "94.43" and told["verdict"] == "missed by 10.1 %"
    (run / "closed_loop.json").write_text(json.dumps({"attempts": [{"verdict": "met"}]}))
    with pytest.raises(StorageError, match=r"closed_loop\.json"):
        write_report(run)


@pytest.mark.parametrize(
    "missing",
    [
        {"table.json": ["latency_map"], "train/history.json": ["training"]},
        {"search/history.json": ["search", "theta"], "result.json": ["latency"]},
    ],
)
def test_what_is_missing_is_named_and_its_figure_left_out(tmp_path, missing):
    run = write_run(tmp_path, without=missing)
    absent = {name for names in missing.values() for name in names}
    (run / "report").mkdir()
    for name in absent:
        (run / "report" / f"{name}.png").write_text("of an earlier report")
    text = write_report(run).read_text()
    assert {path.stem for path in (run / "report").glob("*.png")} == set(FIGURES) - absent
    assert text.count("Left out") == len(absent)
    for path in missing:
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


def test_a_front_is_drawn_and_listed_with_its_uncertainty(tmp_path):
    run = write_run(tmp_path)
    arch = json.loads((run / "result.json").read_text())["arch"]
    net = {"arch": arch, "spread_ms": 0.012, "accuracy_spread": 0.0123, "evaluated_accuracy": 0.8}
    figures = [(0.4, 0.35, 0.7), (1.4, 1.35, 0.8)]
    nets = [{**net, "bound_ms": bound, "predicted_ms": ms, "accuracy": share} for bound, ms, share in figures]
    front = {"strategy": "random", "evaluations": 96, "spent_images": 1e6, "nets": nets}
    (run / "search/front.json").write_text(json.dumps(front))
    text = write_report(run).read_text()
    assert {path.stem for path in (run / "report").glob("*.png")} == {*FIGURES, "front"}
    assert "96 archs evaluated by the strategy random" in text
    assert "<td>400 µs</td><td>350 µs &plusmn; 12 µs</td><td>70.00% &plusmn; 1.23%</td>" in text
    assert text.index("The front</h2>") < text.index('<table class="front">') < text.index('aria-label="Heat map')


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
    assert "ONNX Runtime, same device" not in text
    labels = svg_texts(run / "report" / "latency.svg")
    assert "740 µs" in labels
    assert not any("ONNX" in label for label in labels)


def svg_texts(path):
    """The texts of a figure."""
    return [html.unescape(text) for text in re.findall(r"<text [^>]*>(.*?)</text>", path.read_text())]


def hatched(path):
    """How many areas of a figure are hatched, the legend's included."""
    return path.read_text().count("url(#h")


def all_measured(run):
    record = json.loads((run / "table.json").read_text())
    for cell in record["cells"]:
        cell["source"] = "measured"
    (run / "table.json").write_text(json.dumps(record))


def test_a_run_on_a_simulated_device_is_never_called_measured(tmp_path):
    run = write_run(tmp_path / "run")
    table = json.loads((run / "table.json").read_text())
    for cell in table["cells"]:
        cell["source"] = "simulated" if cell["source"] == "measured" else cell["source"]
    (run / "table.json").write_text(json.dumps(table))
    result = json.loads((run / "result.json").read_text())
    origin = {"kind": "target", "name": "sim_a76", "simulated": True}
    result |= {"latency_source": origin, "chosen_on_simulated": True, "measured_spread_ms": None, "measured_share": 0.0}
    result |= timed_latency("simulated", result["measured_ms"])
    (run / "result.json").write_text(json.dumps(result))
    timed = Timed(Interval.exact(0.6, 1), source="simulated")
    attempt = Attempt(result["arch"], 0.5, 0.9, timed, 0.7).to_dict()
    loop = {"target_ms": 0.7, "arch": result["arch"], "attempts": [attempt]}
    (run / "closed_loop.json").write_text(json.dumps(loop))
    page = write_report(run).read_text()
    assert "simulated on sim_a76 (a model, no device)" in page and "<th>Simulated latency</th>" in re.sub(
        r"</?abbr[^>]*>", "", page
    )
    verdict = re.search(r'<p class="verdict.*?</p>', page, re.S)[0]
    assert "Simulated " in verdict and "(a model, no device)" in verdict and "easured" not in verdict
    assert "which no device took" not in verdict  # said once
    shown = re.sub(r"<dl>.*?</dl>|<[^>]*>", " ", page, flags=re.S)
    assert "easured" not in shown, shown[shown.index("easured") - 60 :][:120]
    texts = svg_texts(run / "report" / "latency.svg")
    assert "simulated" in texts and "measured" not in texts and not any("interval" in text for text in texts)


def test_a_simulated_table_is_told_as_such_wherever_its_latencies_are_shown(tmp_path):
    run = write_run(tmp_path / "run", without=("bench.json",))
    table = json.loads((run / "table.json").read_text())
    for cell in table["cells"]:
        cell["source"] = "predicted" if cell["source"] == "predicted" else "simulated"
    (run / "table.json").write_text(json.dumps(table))
    result = json.loads((run / "result.json").read_text())
    source = {"kind": "simulated", "name": "simulated:a_core", "simulated": True}
    (run / "result.json").write_text(json.dumps({**result, "latency_source": source, "chosen_on_simulated": True}))
    page = write_report(run).read_text()
    assert "<td>simulated:a_core (a model, no device)</td>" in page
    assert "The net was chosen on simulated latencies, which no device took." in page
    assert "from simulated blocks: a model, no device" in page and "from measured blocks" not in page
    assert "<dt>simulated</dt>" in page
    texts = [*svg_texts(run / "report" / "latency_map.svg"), *svg_texts(run / "report" / "arch.svg")]
    assert "simulated" in texts and "measured" not in texts
    assert any(text.startswith("Simulated latency of each block") for text in texts)
    assert any(text.startswith("simulated latency by the table") for text in texts)
    assert any(text.startswith("Whole net: ") and text.endswith("(simulated)") for text in texts)


def test_the_heat_map_tells_measured_predicted_and_free_apart(tmp_path):
    run = write_run(tmp_path, only=["table.json"])
    write_report(run)
    svg = run / "report" / "latency_map.svg"
    texts = svg_texts(svg)
    layers = load_space("fbnet_mini").layers
    free = sum(layer.part("skip") is None for layer in layers)
    assert texts.count("free") == free > 0
    assert {"measured", "hatched: predicted", "free: nothing is computed"} <= set(texts)
    assert "Latency of each block in each layer, µs (pi4)" in texts


def test_hatched_means_predicted_in_every_figure_and_a_legend_says_so(page, tmp_path):
    for name in ("arch", "latency", "latency_map"):
        assert hatched(page.parent / f"{name}.svg") > 0
        assert svg_texts(page.parent / f"{name}.svg").count("hatched: predicted") == 1
    assert all(hatched(page.parent / f"{name}.svg") == 0 for name in ("search", "theta", "training"))
    run = write_run(tmp_path, only=["table.json", "result.json"])
    result = json.loads((run / "result.json").read_text())
    arch = parse_arch("k3_e1_g2,k5_e1_g2/k3_e1_g2,skip,k5_e1/k5_e1_g2,k5_e1", load_space("fbnet_mini"))
    result.update(arch=format_arch(arch, load_space("fbnet_mini")), predicted_ms=None)
    (run / "result.json").write_text(json.dumps(result))
    all_measured(run)
    write_report(run)
    for name in ("arch", "latency", "latency_map"):  # grouped convs and all, nothing is hatched without a prediction
        assert hatched(run / "report" / f"{name}.svg") == 0
        assert "hatched: predicted" not in svg_texts(run / "report" / f"{name}.svg")


def test_the_found_net_is_drawn_with_the_total_of_each_stage_of_the_whole_and_the_target(page):
    text = rows(page.read_text(), "The found net")["Arch"]
    space = load_space("fbnet_mini")
    table = read_run(page.parent.parent).table
    arch = parse_arch(text, space)
    drawn = svg_texts(page.parent / "arch.svg")
    stages = {}
    for layer, part in space.cells_of(arch):
        stages[layer.stage] = stages.get(layer.stage, 0.0) + table.lookup(part).latency_ms
    unit = unit_for(table.lookup(part).latency_ms for part in space.parts_of(arch))
    for stage, total in stages.items():
        assert drawn[drawn.index(f"stage {stage}") + 1] == unit.text(total, 3)
    assert f"Whole net: {unit.text(table.arch_ms(arch, space))} by the table" in drawn
    assert f"latency target {unit.text(0.8)}" in drawn
    blocks = {block for layer in space.layers for block in layer.blocks}
    seen = {part.block for _, part in space.cells_of(arch) if table.lookup(part).latency_ms > 0}
    assert set(drawn) & blocks == seen < set(arch.blocks)  # the legend names the blocks that are to be seen, no others


def test_blocks_that_compute_different_things_have_different_colours():
    for name in ("fbnet", "mobile_se"):
        blocks = {block for layer in load_space(name).layers for block in layer.blocks}
        assert len({block_colour(block) for block in blocks}) == len(blocks)


def test_a_heat_map_of_many_blocks_is_broken_not_shrunk():
    space = load_space("mobile_se")
    table = LatencyTable({part: Cell(1.0) for part in space.distinct_parts()})
    blocks = {block for layer in space.layers for block in layer.blocks}
    for canvas, least in ((WIDE, 3), (NARROW, 4)):
        drawn = latency_map(table, space, canvas)
        names = [label.get_text() for axes in drawn.axes for label in axes.get_xticklabels()]
        assert len(drawn.axes) == least and sorted(names) == sorted(blocks)
        assert drawn.get_size_inches()[0] == canvas.width


def test_a_net_without_latencies_is_drawn_not_to_scale(tmp_path):
    run = write_run(tmp_path, only=["result.json"])
    write_report(run)
    assert any("not to scale" in text for text in svg_texts(run / "report" / "arch.svg"))


def pareto_legend(candidates, target_ms):
    return [text.get_text() for text in pareto_figure(candidates, target_ms).legends[0].get_texts()]


def test_the_legend_of_the_pareto_figure_names_what_is_drawn_and_nothing_else():
    front = [ScoredArch("a", 0.1, 0.03, 0.7, 0.001), ScoredArch("b", 0.1, 0.04, 0.8, 0.001)]
    beaten = ScoredArch("c", 0.1, 0.05, 0.6, 0.0)
    spread, target = "spread of the predicted latency", "latency target 45 µs"
    assert pareto_legend([*front, beaten], 0.045) == ["Pareto front", "other sampled archs", spread, target]
    assert pareto_legend(front, 0.045) == ["Pareto front", spread, target]
    assert pareto_legend([ScoredArch("a", 0.1, 0.03, 0.7)], None) == ["Pareto front"]
    axes = pareto_figure([*front, beaten], 0.045).axes[0]
    assert axes.get_xlabel() == "predicted latency, µs" and axes.get_ylabel().endswith(", %")


def test_the_figure_of_whole_nets_names_its_marks_and_units():
    space = load_space("fbnet_mini")
    table = LatencyTable({part: Cell(0.001 * (1 + len(part.block))) for part in space.distinct_parts()}, name="pi4")
    drawn = [Arch(tuple(layer.blocks[(shift + layer.index) % 8] for layer in space.layers)) for shift in range(8)]
    validation = study(table, space, {format_arch(arch, space): 1.1 * table.arch_ms(arch, space) for arch in drawn})
    axes = additivity(validation, "pi4").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("measured latency, µs", "predicted latency, µs")
    marks = [text.get_text() for text in axes.get_legend().get_texts()]
    assert marks[0] == "predicted as measured" and marks[1].startswith("sum of blocks: MAPE ")
    assert len(marks) == len(axes.lines) + len(axes.collections)


def test_what_search_and_run_warned_of_is_below_the_verdict(tmp_path):
    run = write_run(tmp_path, only=["result.json", "search/search.json"])
    for name, told in (
        ("search/search.json", [{"kind": "uniform_theta", "text": "theta learned <nothing>"}]),
        ("result.json", [{"kind": "uniform_theta", "text": "theta learned <nothing>"}]),
    ):
        record = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**record, "notices": told}))
    text = write_report(run).read_text()
    warning = '<p class="warning">Warning: theta learned &lt;nothing&gt;</p>'
    assert text.count(warning) == 1
    assert text.index('class="verdict') < text.index(warning) < text.index("<h2>The found net</h2>")


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
    alone = typer.Typer()
    alone.command()(report_command)
    outcome = CliRunner().invoke(alone, [str(run), "--json"])
    assert outcome.exit_code == 0, outcome.output
    answer = json.loads(outcome.stdout)
    assert answer["page"].endswith("index.html")
    assert answer["figures"] == [str(run / "report" / "training.png")]
