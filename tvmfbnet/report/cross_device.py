"""The page of a comparison of devices: table 1 of nets and devices, verdicts, and figures.

Nets found for each device with their latency on every one; what the same blocks take on each device, which is why nets
differ; and the nets drawn layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tvmfbnet.files import make_folder, write_text
from tvmfbnet.latency.cross_device import CrossDevice, HomeVerdict, NetTiming
from tvmfbnet.latency.side_by_side import SideBySide
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.latency.verdict import CONFIDENCE
from tvmfbnet.report.blocks import block_colour, block_legend
from tvmfbnet.report.canvas import INK, MIDDLE, SMALL, WIDE, Canvas, legend_below, legend_height, tidy
from tvmfbnet.report.document import Drawing, document, table_html
from tvmfbnet.report.operators import DEVICE_COLOURS, default_operators, operator_bars
from tvmfbnet.report.terms import with_hint
from tvmfbnet.report.verdict import arch_html
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space

PAGE = "index.html"
_VERDICT_CLASS = {True: "", False: " missed", None: " undecided"}


def write_cross_device(
    compared: CrossDevice, drawn: Mapping[str, tuple[Arch, Space]], operators: SideBySide | None, folder: Path
) -> Path:
    """Writes the page and its figures into a folder, replacing earlier ones.

    Args:
        compared: the nets on all devices.
        drawn: the arch of each net, by its home, with its space.
        operators: the devices' latency tables; None where they share too little.
        folder: of the files.

    Returns:
        The page.
    """
    make_folder(folder)
    alt = "Bars of the latency of each net on each device"
    latencies = Drawing.of(partial(latency_bars, compared), "latencies", alt)
    sections = [_nets_html(compared), latencies.write(folder)]
    if operators is not None:
        alt = "Grouped bars of the latency of the same blocks on each device"
        bars = Drawing.of(partial(operator_bars, operators, default_operators(operators)), "operators", alt)
        sections += ["<h2>The same blocks on each device</h2>\n", _ranks_html(operators), bars.write(folder)]
    else:
        for kind in ("png", "svg"):  # those of an earlier comparison
            (folder / f"operators.{kind}").unlink(missing_ok=True)
    alt = "One row per net and one box per layer, coloured by the block that the net has there"
    nets = Drawing.of(partial(nets_by_layer, drawn), "nets", alt)
    sections += ["<h2>The nets, layer by layer</h2>\n", nets.write(folder), _archs_html(compared)]
    write_text(folder / PAGE, _page(compared, "".join(sections)))
    return folder / PAGE


def unit_of(compared: CrossDevice) -> Unit:
    """The unit of all latencies of a comparison."""
    return unit_for(timing.interval.value for timing in compared.timings.values())


def _page(compared: CrossDevice, sections: str) -> str:
    names = " and ".join(escape(device.label) for device in compared.devices)
    verdicts = "".join(map(_verdict_html, compared.verdicts()))
    devices = "<h2>Devices</h2>\n" + _devices_html(compared)
    heading = f"<h1>Nets found for {names}</h1>\n"
    return document(f"nets of {names}", f"{heading}{verdicts}<h2>Each net on each device</h2>\n{sections}{devices}")


def _verdict_html(verdict: HomeVerdict) -> str:
    reasons = "".join(f"<small>{escape(rivalry.why)}.</small>" for rivalry in verdict.rivalries)
    word = {True: "best at home", False: "not the best at home", None: "undecided"}[verdict.best_at_home]
    kind = _VERDICT_CLASS[verdict.best_at_home]
    return f'<p class="verdict{kind}">{escape(verdict.device)}: <strong>{word}</strong>{reasons}</p>\n'


def _nets_html(compared: CrossDevice) -> str:
    unit = unit_of(compared)
    words = {verdict.device: verdict.word for verdict in compared.verdicts()}
    heads = ["found for", with_hint("parameters"), with_hint("MACs"), with_hint("top-1 accuracy")]
    heads += [f"{escape(device.label)}, {unit.name}" for device in compared.devices]
    rows = []
    for net in compared.nets:
        cells = [escape(net.home), f"{net.params / 1e6:.2f}M", f"{net.macs / 1e6:.1f}M", f"{net.accuracy:.2%}"]
        for device in compared.devices:
            text = _timing_html(compared.timings[net.home, device.name], unit)
            cells.append(f"<strong>{text}</strong>" if device.name == net.home else text)
        rows.append([*cells, words[net.home]])
    note = (
        f"<p>Latencies with their {CONFIDENCE:.0%} intervals, the nets of a device timed in turn; bold: at home. "
        "Accuracies are of the trained nets in PyTorch, on the test images.</p>\n"
    )
    return table_html([*heads, "best at home"], rows, "nets") + note


def _archs_html(compared: CrossDevice) -> str:
    archs = "".join(f"<li>{escape(net.home)}: {arch_html(net.arch)}</li>\n" for net in compared.nets)
    return f"<ul>\n{archs}</ul>\n"


def _timing_html(timing: NetTiming, unit: Unit) -> str:
    interval = timing.interval
    text = unit.number(interval.value)
    if interval.high > interval.low:  # a simulated one is exact
        text += f"<small>{unit.number(interval.low)} to {unit.number(interval.high)}</small>"
    return text + (f"<small>{timing.untuned} of {timing.kernels} kernels untuned</small>" if timing.untuned else "")


def _ranks_html(operators: SideBySide) -> str:
    labels = [escape(label) for label in operators.labels]
    rows = [
        [label, *(f"{rank:.3f}" for rank in ranks)] for label, ranks in zip(labels, operators.spearman, strict=True)
    ]
    what = f"<p>Rank correlation (Spearman) of {len(operators.parts)} parts between devices:</p>\n"
    return what + table_html(["", *labels], rows, "nets operators")


def _devices_html(compared: CrossDevice) -> str:
    rows = []
    for net, device in zip(compared.nets, compared.devices, strict=True):
        target = "" if device.target_ms is None else escape(unit_for([device.target_ms]).text(device.target_ms))
        facts = [device.target, device.dtype, str(device.threads), device.basis, device.described]
        rows.append([escape(device.name), *map(escape, facts), target, f"<code>{escape(net.run)}</code>"])
    heads = ["name", "target", "dtype", "threads", "latencies", "machine", with_hint("latency target"), "run"]
    return table_html(heads, rows, "nets")


# --- figures ---


def latency_bars(compared: CrossDevice, canvas: Canvas = WIDE) -> Figure:
    """One panel per device, one bar per net with its interval; the net that was found for the device is darker."""
    unit, count = unit_of(compared), len(compared.nets)
    figure = canvas.figure(0.2 + (0.55 + 0.3 * count) * len(compared.devices))
    panels = figure.subplots(len(compared.devices), 1, squeeze=False).flat
    for axes, device, colour in zip(panels, compared.devices, _colours(len(compared.devices)), strict=True):
        farthest = 0.0
        for row, net in enumerate(compared.nets):
            interval = compared.timings[net.home, device.name].interval
            value, low, high = (unit.per_ms * ms for ms in (interval.value, interval.low, interval.high))
            farthest = max(farthest, high)
            face = colour if net.home == device.name else f"{colour}66"
            axes.barh(row, value, 0.68, color=face, xerr=[[value - low], [high - value]], ecolor=INK, capsize=3)
            axes.text(
                0.01,
                row,
                unit.number(interval.value),
                va="center",
                fontsize=SMALL,
                transform=axes.get_yaxis_transform(),
                color="white" if net.home == device.name else INK,
            )
        tidy(axes, f"Latency on {device.label}, {unit.name}")
        axes.title.set_fontsize(MIDDLE)
        axes.set_yticks(range(count), [f"net for {net.home}" for net in compared.nets], fontsize=8)
        axes.set(ylim=(count - 0.5, -0.5), xlim=(0, 1.05 * farthest))
        axes.tick_params(axis="y", length=0)
    return figure


def _colours(count: int) -> Sequence[str]:
    return [DEVICE_COLOURS[place % len(DEVICE_COLOURS)] for place in range(count)]


def nets_by_layer(drawn: Mapping[str, tuple[Arch, Space]], canvas: Canvas = WIDE) -> Figure:
    """One row per net, one box per layer, in the colour of its block; stages are set apart."""
    blocks = sorted({block for arch, _ in drawn.values() for block in arch.blocks})
    legend: list[Patch] = block_legend(blocks)
    figure = canvas.figure(0.55 + 0.36 * len(drawn) + legend_height(len(legend), canvas.columns))
    axes = figure.add_subplot()
    most = 0.0
    for row, (arch, space) in enumerate(drawn.values()):
        for layer, block in zip(space.layers, arch.blocks, strict=True):
            left = layer.index + 0.5 * layer.stage
            axes.barh(row, 0.94, 0.7, left=left, color=block_colour(block), linewidth=0)
            most = max(most, left + 1)
    tidy(axes, "Block of each layer, stages set apart")
    axes.set_yticks(range(len(drawn)), [f"net for {home}" for home in drawn], fontsize=8)
    axes.set(ylim=(len(drawn) - 0.5, -0.5), xlim=(0, most), xticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    legend_below(figure, legend, canvas.columns)
    return figure
