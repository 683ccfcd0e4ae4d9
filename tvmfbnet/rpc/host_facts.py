"""Facts about the machine that a latency was measured on: model, cores, governor, temperature."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path
from typing import Any

from tvmfbnet.machine import core_numbers, format_cores


def host_fingerprint() -> dict[str, Any]:
    """This machine's fingerprint; unreadable facts are omitted."""
    facts: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "kernel": platform.release()}
    facts["userland_bits"] = 8 * struct.calcsize("P")  # a 64-bit kernel may carry a 32-bit userland
    facts["page_size"] = os.sysconf("SC_PAGESIZE")
    facts["cores"] = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        facts["allowed_cores"] = format_cores(core_numbers())
    model = _read("/proc/device-tree/model").strip("\0 ") or _cpu_model()
    if model:
        facts["model"] = model
    for name, path in (
        ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ("frequency_khz", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        ("temperature_millicelsius", "/sys/class/thermal/thermal_zone0/temp"),
    ):
        value = _read(path)
        if value:
            facts[name] = value
    return facts


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Hardware", "Model")):
            return line.partition(":")[2].strip()
    return ""
