"""The report's verdict on the latency target, and the nets that the closed loop timed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from tvmfbnet.latency.origin import CHOSEN_ON_SIMULATED, MEASURED, NO_DEVICE, timed_of
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.terms import with_hint


def verdict_html(result: Mapping[str, Any]) -> str:
    """The verdict on the latency target, with the measured latency; empty if there was no target."""
    if not result.get("verdict"):
        return ""
    kind, bounds = str(result["verdict_kind"]), result["interval"]
    source, timed_ms = timed_of(result)
    unit = unit_for([result["latency_target_ms"], timed_ms])
    first = (
        f"Latency target {unit.text(result['latency_target_ms'])}: <strong>{escape(str(result['verdict']))}</strong>"
    )
    interval = f"{unit.number(bounds['low_ms'])} to {unit.number(bounds['high_ms'])}"
    more = [f"Simulated {unit.text(timed_ms or 0.0)} ({NO_DEVICE})."]
    if source == MEASURED:
        more = [
            f"Measured {unit.text(timed_ms or 0.0)} ({interval}), {bounds['confidence']:.0%} interval over "
            f"{bounds['visits']} measurement passes."
        ]
    if result.get("chosen_on_simulated") and source == MEASURED:
        more.append(f"{CHOSEN_ON_SIMULATED.capitalize()}.")
    if result.get("advice"):
        more.append(f"Advice: {result['advice']}.")
    return f'<p class="verdict {escape(kind)}">{first}<small>{escape(" ".join(more))}</small></p>\n'


def attempts_html(loop: Mapping[str, Any]) -> str:
    """The nets that the closed loop timed before training one: latency, speed factor and verdict."""
    attempts = loop.get("attempts") or []
    if not attempts:
        return ""
    source = timed_of(attempts[0])[0]
    unit = unit_for([latency for item in attempts for latency in (item["table_ms"], timed_of(item)[1])])
    heads = (
        f"predicted, corrected by the turn before, {unit.name}",
        f"predicted by the table, {unit.name}",
        f"{source}, {unit.name}",
        "speed factor",
        f"at the table's speed, {unit.name}",
        "verdict",
        "what followed, and why",
    )
    body = ""
    for number, item in enumerate(attempts, start=1):
        speed, at_table = item["speed_factor"], item["at_table_speed_ms"]
        corrected = item.get("predicted_ms")
        cells = (
            None if corrected in (None, item["table_ms"]) else unit.number(corrected),
            unit.number(item["table_ms"]),
            _with_bounds(item, unit),
            None if speed is None else speed["description"],
            None if at_table is None else unit.number(at_table),
            item["verdict"],
            item.get("next") or None,
        )
        rows = "".join(
            f"<tr><th>{with_hint(head)}</th><td>{escape(str(cell))}</td></tr>\n"
            for head, cell in zip(heads, cells, strict=True)
            if cell is not None
        )
        kept = " (kept)" if item["arch"] == loop.get("arch") else ""
        body += (
            f"<h3>Turn {item.get('turn') or number}: {arch_html(item['arch'])}{kept}</h3>\n<table>\n{rows}</table>\n"
        )
    kept = f"<p>Kept {escape(loop['why'])}.</p>\n" if loop.get("why") else ""
    return f"<h2>Closed loop: nets that were timed before one was trained</h2>\n{body}{kept}"


def _with_bounds(item: Mapping[str, Any], unit: Unit) -> str:
    """A latency and its interval; a simulated one is exact."""
    (source, timed_ms), bounds = timed_of(item), item["interval"]
    text = unit.number(timed_ms or 0.0)
    if source != MEASURED:
        return text
    return f"{text} ({unit.number(bounds['low_ms'])} to {unit.number(bounds['high_ms'])})"


def arch_html(arch: str) -> str:
    """An arch that wraps only between blocks."""
    text = escape(arch).replace(",", ",<wbr>").replace("/", "/<wbr>")
    return f'<span class="arch">{text}</span>'
