"""Where a machine tells the energy it takes: counters of joules, and sensors of watts that are summed up over time.

- ``rapl``: joules of the CPU packages and their memory, Intel's and AMD's; ``/sys/class/powercap/intel-rapl:*``.
- ``odpm``: joules of a phone's power rails, of all together; ``/sys/bus/iio/devices/iio:device*/energy_value``.
- ``hwmon``: watts at a board's supply; ``/sys/class/hwmon/hwmon*`` whose name starts with ``ina2``.
- ``battery``: watts that a discharging battery gives; ``/sys/class/power_supply/*``.
- ``command:...``: a command that prints the joules taken so far, one number.

Virtual machines mostly show none of the first four. Formats: the kernel's documentation of powercap, hwmon and
power_supply (its sysfs-class ABI pages), and the driver of the Pixel's on-device power meters.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tvmfbnet.errors import UserError

SYSTEM = Path("/sys")
# Sensors are read this often; what they tell is itself an average over some milliseconds.
_SAMPLING_SECONDS = 0.02
_COMMAND_SECONDS = 10.0
_RAIL = re.compile(r"CH\d+\(T=\d+\)\[([^\]]+)\],\s*(\d+)")


class EnergySource(Protocol):
    """Something that tells how much energy a machine takes."""

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    def running(self) -> AbstractContextManager[Callable[[], float]]:
        """Gives a function that tells the joules taken since; UserError where the machine does not tell."""
        ...


@dataclass(frozen=True)
class Counter:
    """Counters of joules that only rise, but for those that start over.

    Args:
        name: of the source.
        read: the counters, in joules.
        ranges: for each the joules at which it starts over; 0 for never, so that one that falls is refused.
    """

    name: str
    read: Callable[[], Sequence[float]]
    ranges: Sequence[float]

    @contextmanager
    def running(self) -> Iterator[Callable[[], float]]:
        """Sums what each counter rose by since the call before; one that starts over must be read once a round."""
        last, total = list(self.read()), 0.0

        def joules() -> float:
            nonlocal total
            now = list(self.read())
            if len(now) != len(last):
                raise UserError(f"{self.name} told {len(last)} counters of energy and now {len(now)}: measure again")
            for new, old, size in zip(now, last, self.ranges, strict=True):
                if new < old and not size:
                    raise UserError(
                        f"{self.name} told {old:g} joules and then {new:g}: it must tell all that was taken so far"
                    )
                total += new - old if new >= old else new - old + size
            last[:] = now
            return total

        yield joules


@dataclass(frozen=True)
class Sensor:
    """A sensor of watts, read in the background and summed up over time.

    Args:
        name: of the source.
        watts: reads it.
    """

    name: str
    watts: Callable[[], float]

    @contextmanager
    def running(self) -> Iterator[Callable[[], float]]:
        """Each reading counts for the time since the one before."""
        stopped, lock = threading.Event(), threading.Lock()
        total, last = 0.0, time.monotonic()
        self.watts()  # says what is wrong here, not in the background

        def read() -> float:
            nonlocal total, last
            with lock:
                watts, now = self.watts(), time.monotonic()
                total += watts * (now - last)
                last = now
                return total

        def sample() -> None:
            while not stopped.wait(_SAMPLING_SECONDS):
                read()

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield read
        finally:
            stopped.set()
            thread.join()


def source_named(text: str, system: Path = SYSTEM) -> EnergySource:
    """A source as users write it; ``auto`` is the first that this machine has.

    Args:
        text: ``auto``, one of the names of the module, or ``command:`` and a command.
        system: where sysfs is mounted.

    Raises:
        UserError: there is no such source, or not on this machine.
    """
    if text.startswith("command:"):
        return _command(text.removeprefix("command:"))
    if text != "auto" and text not in _FINDERS:
        raise UserError(f"unknown source of energy {text[:40]!r}: write auto, {', '.join(_FINDERS)} or command:...")
    for name in _FINDERS if text == "auto" else [text]:
        source = _FINDERS[name](system)
        if source is not None:
            return source
    where = "nothing that tells" if text == "auto" else f"no {text} that tells"
    raise UserError(f"this machine has {where} the energy it takes; give --energy 'command:...' that prints joules")


def _rapl(system: Path) -> EnergySource | None:
    """The packages, and the memory beside each; the package's own parts and the whole platform would count twice."""
    zones = [zone for zone in sorted((system / "class/powercap").glob("intel-rapl:*")) if _rapl_counts(zone)]
    if not zones:
        return None
    files = [zone / "energy_uj" for zone in zones]
    ranges = [_number(zone / "max_energy_range_uj") / 1e6 for zone in zones]
    return Counter("rapl", lambda: [_number(file) / 1e6 for file in files], ranges)


def _rapl_counts(zone: Path) -> bool:
    name = _text(zone / "name")
    return name.startswith("package") if zone.name.count(":") == 1 else name == "dram"


def _odpm(system: Path) -> EnergySource | None:
    files = sorted((system / "bus/iio/devices").glob("iio:device*/energy_value"))
    if not files:
        return None

    def read() -> list[float]:
        return [int(taken) / 1e6 for file in files for _, taken in _RAIL.findall(_text(file))]

    return Counter("odpm", read, [0.0] * len(read()))


def _hwmon(system: Path) -> EnergySource | None:
    folders = [
        path for path in sorted((system / "class/hwmon").glob("hwmon*")) if _text_or(path / "name")[:4] == "ina2"
    ]
    files = [file for folder in folders for file in sorted(folder.glob("power*_input"))]
    return Sensor("hwmon", lambda: sum(_number(file) / 1e6 for file in files)) if files else None


def _battery(system: Path) -> EnergySource | None:
    folders = sorted((system / "class/power_supply").glob("*"))
    folders = [folder for folder in folders if _text_or(folder / "type") == "Battery"]
    if not folders:
        return None

    def watts(folder: Path) -> float:
        if _text(folder / "status") != "Discharging":
            raise UserError(f"{folder.name} is not discharging, so it does not tell what is taken: unplug the charger")
        if (folder / "power_now").is_file():
            return _number(folder / "power_now") / 1e6
        return abs(_number(folder / "current_now")) * _number(folder / "voltage_now") / 1e12

    return Sensor("battery", lambda: sum(watts(folder) for folder in folders))


_FINDERS: dict[str, Callable[[Path], EnergySource | None]] = {
    "rapl": _rapl,
    "odpm": _odpm,
    "hwmon": _hwmon,
    "battery": _battery,
}


def _command(command: str) -> EnergySource:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"command:{command[:60]} cannot be read: {error}") from error
    if not words:
        raise UserError("command: needs a command that prints the joules taken so far")

    def read() -> list[float]:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{words[0]} does not tell the energy: {error}") from error
        try:
            if done.returncode != 0:
                raise ValueError(
                    "".join(done.stderr.strip().splitlines()[-1:])[-200:] or f"exit code {done.returncode}"
                )
            told = float(done.stdout)
            if not math.isfinite(told):
                raise ValueError(f"{told} is none")
            return [told]
        except ValueError as error:
            raise UserError(f"{words[0]} does not print a number of joules: {error}") from error

    return Counter(f"command:{command}", read, [0.0])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except PermissionError as error:
        raise UserError(f"{file} tells the energy only to root: run as root, or make it readable") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _text_or(file: Path) -> str:
    return _text(file) if file.is_file() else ""


def _number(file: Path) -> float:
    text = _text(file)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{file} holds no number: {text[:40]!r}") from error
