"""Runs one benchmark: what it needs is looked for and prepared, then it runs pinned, in a process group of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from figures import FIGURES_FILE
from pydantic import ValidationError

from suite.forms import Benchmark, Form
from suite.records import Figure, Outcome
from tvmfbnet.errors import StorageError
from tvmfbnet.files import digest, make_folder, read_text, write_text
from tvmfbnet.machine import core_numbers, format_cores

ROOT = Path(__file__).resolve().parents[2]
_LAST_LINES = 2000


class FailedError(Exception):
    """A process of a benchmark failed; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """What all benchmarks of a run share.

    Attributes:
        work: folder of tuning logs, packages and the benchmarks' own files; kept, so that a second run prepares less.
        inputs: folder with the files that no package brings, such as published tables.
        repeats: of each benchmark, each in a process of its own; their values are added together.
        limit_minutes: for one command.
        scripts: folder of the benchmarks.
    """

    work: Path
    inputs: Path
    repeats: int = 1
    limit_minutes: float = 60.0
    scripts: Path = ROOT / "benchmarks"

    def words(self, options: str) -> list[str]:
        """The words of a command line, its folders filled in."""
        return [word.format(work=self.work, inputs=self.inputs) for word in shlex.split(options)]


def lacking(form: Form, settings: Settings) -> str | None:
    """Why a form cannot run here, as a clause; None where nothing is missing."""
    for name, source in form.inputs.items():
        if not (settings.inputs / name).exists():
            return f"{name} is not in --inputs ({source})"
    for program, package in form.programs.items():
        if shutil.which(program) is None:
            return f"the program {program} is not installed ({package})"
    for module, requirement in form.modules.items():
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed ({requirement})"
    if form.cores > len(core_numbers()):
        return f"it takes {form.cores} cores, and this process may use {len(core_numbers())}"
    return None


def run_benchmark(benchmark: Benchmark, form: Form, settings: Settings) -> Outcome:
    """Runs a benchmark and says what became of it; never raises for what the benchmark does."""
    lines = [["python", f"benchmarks/{benchmark.script}.py", *shlex.split(options)] for options in form.options]
    told = {"commands": tuple(shlex.join(line) for line in lines), "revision": revision()}
    if (reason := lacking(form, settings)) is not None:
        return Outcome(status="skipped", reason=reason, recorded=_now(), **told)
    cores = core_numbers()[-form.cores :]
    begun, load, reason = time.monotonic(), os.getloadavg()[0], ""
    make_folder(settings.work / "output")
    figures = settings.work / "output" / f"{benchmark.name}.jsonl"
    figures.unlink(missing_ok=True)
    try:
        for step in form.prepare:
            _prepare(step, settings)
        begun, load = time.monotonic(), os.getloadavg()[0]
        for _ in range(settings.repeats):
            for options in form.options:
                command = [sys.executable, str(settings.scripts / f"{benchmark.script}.py"), *settings.words(options)]
                _run(command, benchmark.name, settings, cores, figures)
    except FailedError as error:
        reason = str(error)
    reported, unreadable = _read(figures)
    if not reason:
        reason = unreadable or ("" if reported else "it reported no figure")
    return Outcome(
        status="failed" if reason else "done",
        reason=reason,
        recorded=_now(),
        seconds=round(time.monotonic() - begun, 1),
        load=(round(load, 2), round(os.getloadavg()[0], 2)),
        cores=format_cores(cores),
        figures=tuple(reported),
        **told,
    )


def _prepare(commands: tuple[str, ...], settings: Settings) -> None:
    """Runs a preparation once per work folder."""
    for text in commands:
        stamp = settings.work / "prepared" / digest(text)
        if stamp.exists():
            continue
        command = [sys.executable, "-m", "tvmfbnet", *settings.words(text)]
        try:
            _run(command, f"prepare-{digest(text)}", settings, core_numbers(), None)
        except FailedError as error:
            raise FailedError(f"its preparation failed, tvmfbnet {text}: {error}") from error
        write_text(stamp, text + "\n")


def _run(command: list[str], name: str, settings: Settings, cores: tuple[int, ...], figures: Path | None) -> None:
    """Runs a command to its end; FailedError says what was wrong. Nothing that it started outlives it."""
    output = make_folder(settings.work / "output") / f"{name}.txt"
    place = f"see output/{output.name} in --work"  # files of figures name no folder of this machine
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.setdefault("TVMFBNET_TUNING_LOGS", str(settings.work / "tuning_logs"))
    environment.pop(FIGURES_FILE, None)
    if figures is not None:
        environment[FIGURES_FILE] = str(figures)
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            cwd=settings.work, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            _pin(process.pid, cores)
            code = process.wait(60 * settings.limit_minutes)
        except subprocess.TimeoutExpired:
            raise FailedError(f"it took longer than {settings.limit_minutes:g} minutes; {place}") from None
        finally:
            _end(process)
    if code:
        ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
        raise FailedError(f"{ended}: {_last_line(output)}; {place}")


def _pin(process: int, cores: tuple[int, ...]) -> None:
    """Keeps a process that has just started, and all that it will start, on these cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, cores)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a process and its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(output: Path) -> str:
    with output.open("rb") as stream:
        stream.seek(max(0, output.stat().st_size - _LAST_LINES))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _read(file: Path) -> tuple[list[Figure], str]:
    """The figures of a file, repeats of one joined, and why a line is none."""
    figures: dict[str, Figure] = {}
    try:
        lines = read_text(file).splitlines() if file.exists() else []
        for line in lines:
            figure = Figure.model_validate(json.loads(line), strict=True)
            earlier = figures.get(figure.name)
            values = [*(earlier.values if earlier else []), *figure.values]
            figures[figure.name] = figure.model_copy(update={"values": values})
    except (ValidationError, ValueError, StorageError) as error:
        return list(
            figures.values()
        ), f"a figure in output/{file.name} cannot be read: {' '.join(str(error).split())[:200]}"
    return list(figures.values()), ""


def revision() -> str:
    """The revision of the sources, ``-dirty`` where they were changed since; empty outside a git repository.

    Files of figures and their page are no sources.
    """
    results = ("benchmarks/recorded", "docs/results/benchmarks.md")
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in results))
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
