"""What the report says on the latency target: the verdict on top of the page, and the nets that were timed for it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def verdict_html(result: Mapping[str, Any]) -> str:
    """The verdict on the latency target, with what was measured; empty where there was no target."""
    if not result.get("verdict"):
        return ""
    kind, bounds = str(result["verdict_kind"]), result["interval"]
    measured = f"{result['measured_ms']:.4g} ms ({bounds['low_ms']:.4g} to {bounds['high_ms']:.4g})"
    first = f"Latency target {result['latency_target_ms']:.4g} ms: <strong>{escape(str(result['verdict']))}</strong>"
    more = [f"Measured {measured}, {bounds['confidence']:.0%} interval over {bounds['visits']} visits."]
    if result.get("advice"):
        more.append(f"Advice: {result['advice']}.")
    return f'<p class="verdict {escape(kind)}">{first}<small>{escape(" ".join(more))}</small></p>\n'


def attempts_html(loop: Mapping[str, Any]) -> str:
    """The nets that were timed before one was trained: as measured, and beside it what the speed factor makes of it."""
    attempts = loop.get("attempts") or []
    if not attempts:
        return ""
    names = ("table, ms", "measured, ms", "speed factor", "at the table's speed, ms", "verdict")
    body = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>\n"
    for item in attempts:
        bounds, speed, at_table = item["interval"], item["speed_factor"], item["at_table_speed_ms"]
        cells = (
            f"{item['table_ms']:.4g}",
            f"{item['measured_ms']:.4g} ({bounds['low_ms']:.4g} to {bounds['high_ms']:.4g})",
            "" if speed is None else speed["description"],
            "" if at_table is None else f"{at_table:.4g}",
            item["verdict"],
        )
        body += f'<tr><td class="arch" colspan="{len(names)}">{escape(item["arch"])}</td></tr>\n'
        body += "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>\n"
    return f'<h2>Nets that were timed before one was trained</h2>\n<table class="wide">\n{body}</table>\n'
