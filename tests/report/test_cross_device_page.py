"""The page of a comparison of devices: table, verdicts, figures, and labels of what was simulated."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tvmfbnet.latency.cells import Cell, Source
from tvmfbnet.latency.cross_device import CrossDevice, NetTiming, RunDevice, RunNet
from tvmfbnet.latency.side_by_side import SideBySide, side_by_side
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.verdict import Interval
from tvmfbnet.report.cross_device import latency_bars, nets_by_layer, write_cross_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space

NAMES = ("phone", "<board>")


def drawn() -> dict[str, tuple[Arch, Space]]:
    """The nets: small kernels for the one, large ones for the other."""
    space = load_space("fbnet_mini")
    chosen = {NAMES[0]: "k3_e1", NAMES[1]: "k5_e6"}
    return {
        name: (Arch(tuple(block if block in layer.blocks else layer.blocks[0] for layer in space.layers)), space)
        for name, block in chosen.items()
    }


def compared(basis: Source = "measured", noise: float = 0.03) -> CrossDevice:
    devices = (RunDevice(NAMES[0], "arm_cpu", "float32", 4, "measured", 2.0, "A phone"),)
    devices += (RunDevice(NAMES[1], "rpi5", "int8", 4, basis, None, "A board"),)
    nets = tuple(
        RunNet(name, f"runs/{number}", format_arch(*drawn()[name]), "fbnet_mini", 4_560_000, 295_000_000, 0.741, 50_000)
        for number, name in enumerate(NAMES)
    )
    latencies = {
        (NAMES[0], NAMES[0]): 1.5,
        (NAMES[1], NAMES[0]): 1.8,
        (NAMES[0], NAMES[1]): 4.0,
        (NAMES[1], NAMES[1]): 4.1,
    }
    timings = {
        (net, device): NetTiming(
            Interval(ms, *(ms * (1 + sign * (noise if device == NAMES[1] else 0.03)) for sign in (-1, 1)), 9),
            kernels=30,
            untuned=2 if net != device else 0,
        )
        for (net, device), ms in latencies.items()
    }
    return CrossDevice(devices, nets, timings)


def operators(source: Source = "measured") -> SideBySide:
    parts = load_space("fbnet_mini").distinct_parts()
    one = LatencyTable({part: Cell(0.1 + place) for place, part in enumerate(parts)}, name=NAMES[0])
    cells = {part: Cell(5.0 - 0.1 * place, source=source) for place, part in enumerate(parts)}
    return side_by_side([(NAMES[0], one), (NAMES[1], LatencyTable(cells, name=NAMES[1]))])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_device(compared(), drawn(), operators(), tmp_path_factory.mktemp("cross"))


def text_of(page: Path) -> str:
    """The page without its tags."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.S).split())


def test_the_table_has_every_net_on_every_device_with_its_size_and_accuracy(page: Path) -> None:
    text = text_of(page)
    row = "phone 4.56M 295.0M 74.10% 1.5 1.455 to 1.545 4 3.88 to 4.12 2 of 30 kernels untuned undecided"
    assert row in text
    assert "found for parameters MACs top-1 accuracy phone, ms &lt;board&gt;, ms best at home" in text
    assert "<strong>1.5<" in page.read_text() and "<strong>4<" not in page.read_text()


def test_the_verdicts_come_first_with_their_reasons(page: Path) -> None:
    text = page.read_text()
    after = text[text.index("</h1>") + 5 :].lstrip()
    assert after.startswith('<p class="verdict undecided">phone: <strong>undecided</strong>')
    assert "2 of its 30 kernels were never tuned there" in text_of(page)


def test_the_page_stands_on_its_own_with_figures_beside_it(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"https?://|<script|<link|<img|src=|@import|url\((?!#)", text)
    assert "<board>" not in text
    figures = {path.name for path in page.parent.iterdir()} - {page.name}
    assert figures == {f"{name}.{kind}" for name in ("latencies", "operators", "nets") for kind in ("png", "svg")}
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 50
    assert "Rank correlation (Spearman) of 46 parts between devices" in text_of(page) and "-1.000" in text_of(page)


def test_without_shared_blocks_there_is_no_figure_of_them(tmp_path: Path) -> None:
    (tmp_path / "operators.png").write_text("of an earlier comparison")
    text = text_of(write_cross_device(compared(), drawn(), None, tmp_path))
    assert not list(tmp_path.glob("operators.*")) and "Rank correlation" not in text


def test_a_simulated_device_is_labelled_in_the_heading_the_table_and_every_figure(tmp_path: Path) -> None:
    exact = compared("simulated", noise=0.0)
    page = write_cross_device(exact, drawn(), operators("simulated"), tmp_path)
    text, label = text_of(page), "&lt;board&gt; (simulated)"
    assert f"Nets found for phone and {label}" in text and f"phone, ms {label}, ms best at home" in text
    assert "4 2 of 30 kernels untuned" in text, "an exact latency has no interval"
    for name in ("latencies", "operators"):
        assert label in (tmp_path / f"{name}.svg").read_text(), name
    assert "rpi5 int8 4 simulated A board" in text


def test_bars_of_a_device_show_its_own_net_darker_than_foreign_ones() -> None:
    figure = latency_bars(compared())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Latency on phone, ms", "Latency on <board>, ms"]
    assert [bar.get_facecolor()[3] == 1 for axes in figure.axes for bar in axes.patches] == [True, False, False, True]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1.5, 1.8]


def test_nets_are_drawn_with_one_box_per_layer() -> None:
    nets = drawn()
    other = replace(nets[NAMES[1]][1], name="other")
    figure = nets_by_layer({**nets, "third": (nets[NAMES[0]][0], other)})
    assert len(figure.axes[0].patches) == 3 * len(other.layers)
