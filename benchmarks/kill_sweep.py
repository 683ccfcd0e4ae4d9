"""Kills each command at random moments with SIGKILL, resumes it to its end, and prints what that cost.

    python benchmarks/kill_sweep.py --kills 20 --commands tune,measure,search,train,compile

Each command runs on a tiny space and this machine's CPU, with tuning logs and images of its own. First it runs without
a kill: that gives the moments to choose from, and the result to compare with. Then, for each kill, a fresh copy of its
state is taken, the command is started, its main process killed at a random moment, and started again until it ends by
itself. Counted: trials, measurements and passes that were on the disk before the kill and missing after it (``lost``),
children that lived on (``left running``), temporary folders that the next start left (``left behind``), and results
that differ from those of the run that nobody killed. ``measure`` is ``tune`` with kernels that are tuned already.

With ``--every SECONDS`` one tuning is killed at that rhythm instead until it is done, and what each life added is told.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from figures import report_figure
from PIL import Image

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.latency.journal import Journal

SPACE = """
input: {channels: 1, height: 16, width: 16}
classes: 2
stem: {channels: 8, stride: 2}
stages:
  - {channels: 8, layers: 1, stride: 1}
  - {channels: 16, layers: 2, stride: 2}
blocks: [k3_e1, skip]
last_channels: 16
"""
TARGET = """
name: mine
description: this machine, with short measurements
exercised: false
tvm: {kind: llvm, mcpu: native, num-cores: 1}
toolchain: {kind: cxx, command: c++}
transport: {kind: local, key: mine}
timing: {warmup: 1, repeats: 3, min_repeat_ms: 5, chain_rounds: 1, chain_runs: 4, visits: 8, drift_limit: 100,
  trial_repeats: 1, trial_min_ms: 2}
"""
PASSES, RUNS = 8, 4
# A round for every kernel and some more, so that the budget can be met to the trial.
TRIALS = 120
SEARCH = "epochs: 4\nwarmup_epochs: 1\nbatch_size: 8\ncandidates: 2\nsamples: 20\nthreads: 1\ncheckpoint_steps: 3\n"
TRAIN = "epochs: 6\nbatch_size: 8\nwarmup_epochs: 1\nthreads: 1\ncheckpoint_steps: 3\n"
ARCH = "k3_e1/skip,k3_e1"
# A command that takes this long has come to a stop.
LONGEST_SECONDS = 900.0


@dataclass(frozen=True)
class Place:
    """Where everything lies: inputs made once, and the state that each kill starts from."""

    folder: Path
    trials: int

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def command(self, name: str, state: Path) -> list[str]:
        space, target = ["--space", str(self.folder / "small.yaml")], ["--target", str(self.folder / "mine.yaml")]
        logs, data = ["--tuning-logs", str(state / "logs")], ["--data", f"imagefolder:{self.folder / 'images'}"]
        words = {
            "tune": ["tune", *space, *target, *logs, "--trials", str(self.trials)],
            "measure": ["tune", *space, *target, *logs, "--trials", str(self.trials)],
            "search": ["search", *space, *target, *logs, *data, "--config", str(self.folder / "search.yaml")],
            "train": ["train", ARCH, *space, *data, "--config", str(self.folder / "train.yaml")],
            "compile": ["compile", ARCH, *space, *target, *logs],
        }[name]
        out = [] if name in ("tune", "measure") else ["--out", str(state / "out")]
        device = ["--device", "cpu"] if name in ("search", "train") else []
        return [sys.executable, "-m", "tvmfbnet.cli.main", *words, *out, *device]


def make_place(folder: Path, trials: int) -> Place:
    (folder / "small.yaml").write_text(SPACE)
    (folder / "mine.yaml").write_text(TARGET)
    (folder / "search.yaml").write_text(SEARCH)
    (folder / "train.yaml").write_text(TRAIN)
    generator = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for number, name in enumerate(("left", "right")):
            images = folder / "images" / part / name
            images.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 80, (16, 16), dtype=np.uint8)
                pixels[:, 8 * number : 8 * number + 8] += 120
                Image.fromarray(pixels).save(images / f"{index}.png")
    place = Place(folder, trials)
    place.temporary.mkdir()
    return place


def started(place: Place, name: str, state: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(place.temporary)}
    with log.open("ab") as stream:
        return subprocess.Popen(
            place.command(name, state), stdout=stream, stderr=stream, env=environment, start_new_session=True
        )


def to_the_end(place: Place, name: str, state: Path) -> float:
    """Seconds that a run took; ends this program where it failed."""
    began, log = time.monotonic(), place.folder / "last.log"
    log.unlink(missing_ok=True)
    code = started(place, name, state, log).wait(LONGEST_SECONDS)
    if code != 0:
        sys.exit(f"{name} ended with {code}: {log.read_text()[-2000:]}")
    return time.monotonic() - began


def kill(process: subprocess.Popen[bytes]) -> int:
    """Kills the main process alone; how many of its children live on ten seconds later (those are killed, too)."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()
    return len(alive)


def lines(path: Path) -> list[bytes]:
    """The whole lines of a file."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def recorded(state: Path) -> dict[str, list[bytes]]:
    """Everything that must survive a kill: trials, measurements and measurement passes on the disk."""
    folder = state / "logs" / "mine"
    files = {"trials": "database/trials.jsonl", "measurements": "latency.jsonl", "passes": "visits.jsonl"}
    return {what: lines(folder / name) for what, name in files.items()}


@contextmanager
def watched(path: Path) -> Iterator[set[bytes]]:
    """All lines that are seen in a file while the block runs: passes go once the journal has them."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with suppress(OSError):
                seen.update(lines(path))
            over.wait(0.005)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def lost(before: dict[str, list[bytes]], after: dict[str, list[bytes]], seen: set[bytes]) -> int:
    """How much of what was recorded is not there any more, or was made again.

    Passes go into measurements; here they are all of one library of nets, so there are never more than its share.
    """
    gone = sum(len(set(before[what]) - set(after[what])) for what in ("trials", "measurements"))
    passes = {line for line in seen.union(before["passes"]) if b"nets_ms" in line}
    return gone + max(0, len(passes) - PASSES)


def outcome(name: str, state: Path, place: Place) -> object:
    """The result, which must be the same with and without kills."""
    if name in ("tune", "measure"):
        measured = Journal(state / "logs" / "mine" / "latency.jsonl").read()
        trials = [json.loads(line) for line in recorded(state)["trials"]]
        tried = [(trial["task"], json.dumps(trial["knobs"])) for trial in trials if trial["knobs"]]
        whole = all((item.n + item.outliers) % (PASSES * RUNS) == 0 and item.tries == PASSES for item in measured)
        parts = sorted(item.part.name for item in measured)
        return len(trials) - place.trials, len(tried) - len(set(tried)), parts, whole, recorded(state)["passes"]
    if name == "search":
        result = json.loads((state / "out" / "search.json").read_text())
        archs = [candidate["arch"] for candidate in json.loads((state / "out" / "archs.json").read_text())]
        return archs, result["theta"]
    if name == "train":
        record = torch.load(state / "out" / "net.pt", weights_only=True)
        return {key: value.numpy().tobytes() for key, value in _tensors(record).items()}
    return sorted(path.name for path in (state / "out").iterdir()), (state / "out" / "net.onnx").read_bytes()


def _tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict):
        return {name: one for key, inner in value.items() for name, one in _tensors(inner, f"{path}/{key}").items()}
    return {}


@dataclass
class Tally:
    """The cost of the kills of one command."""

    kills: int = 0
    after_the_end: int = 0
    lost: int = 0
    left_running: int = 0
    left_behind: int = 0
    other_result: int = 0
    moments: list[float] = field(default_factory=list)


def sweep(place: Place, name: str, begin: Path | None, kills: int, rng: random.Random) -> tuple[Tally, Path]:
    """Kills one command so often; also gives the state that the run without a kill ended in."""

    def fresh(where: str) -> Path:
        state = place.folder / where
        shutil.rmtree(state, ignore_errors=True)
        if begin is None:
            state.mkdir()
        else:
            shutil.copytree(begin, state)
        return state

    reference = fresh(f"{name}-reference")
    seconds = to_the_end(place, name, reference)
    expected, tally = outcome(name, reference, place), Tally()
    print(f"{name}: {seconds:.1f} s without a kill", flush=True)
    for number in range(kills):
        state = fresh("killed")
        moment = rng.uniform(0.0, seconds)
        process = started(place, name, state, place.folder / "killed.log")
        try:
            process.wait(moment)
            tally.after_the_end += 1  # it was quicker this time
        except subprocess.TimeoutExpired:
            tally.left_running += kill(process)
            tally.kills += 1
        before = recorded(state)
        with watched(state / "logs" / "mine" / "visits.jsonl") as seen:
            to_the_end(place, name, state)
        lost_lines = lost(before, recorded(state), seen)
        result = outcome(name, state, place)
        tally.lost += lost_lines
        tally.other_result += result != expected
        tally.left_behind += len(list(place.temporary.glob("tvmfbnet-*")))
        told = ", ".join(f"{len(lines)} {what}" for what, lines in before.items() if lines)
        print(
            f"  kill {number + 1} after {moment:.1f} s ({told or 'nothing recorded'}): lost {lost_lines}, "
            f"{'same result' if result == expected else f'OTHER RESULT {_short(result)} != {_short(expected)}'}",
            flush=True,
        )
    return tally, reference


def _short(value: object) -> str:
    return repr(value)[:300]


def rhythm(place: Place, seconds: float) -> None:
    """Kills one tuning at a fixed interval until it completes."""
    state = place.folder / "rhythm"
    state.mkdir()
    for life in range(1, 1000):
        before, process = recorded(state), started(place, "tune", state, place.folder / "killed.log")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            kill(process)
        after = recorded(state)
        gone = sum(len(set(before[what]) - set(after[what])) for what in ("trials", "measurements"))
        told = ", ".join(f"{len(before[what])} -> {len(after[what])} {what}" for what in before)
        print(f"life {life} (load {os.getloadavg()[0]:.1f}): {told}, lost {gone}, ended {code}", flush=True)
        if code is not None:
            sys.exit(code)
    sys.exit("it never ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--commands", default="tune,measure,search,train,compile")
    parser.add_argument("--trials", type=int, default=TRIALS, help="budget of the tuning")
    parser.add_argument("--every", type=float, help="kill one tuning at this rhythm instead, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.commands.split(",")
    rng = random.Random(options.seed)
    tallies: dict[str, Tally] = collections.OrderedDict()
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder), options.trials)
        if options.every:
            rhythm(place, options.every)
        tuned: Path | None = None
        for name in names:
            begin = None if name == "tune" else tuned
            if name != "tune" and tuned is None:
                tuned = begin = Path(folder) / "tuned"
                tuned.mkdir()
                to_the_end(place, "tune", tuned)
            if name == "measure" and tuned is not None:
                begin = Path(folder) / "unmeasured"
                shutil.copytree(tuned, begin)
                (begin / "logs" / "mine" / "latency.jsonl").unlink()
            tallies[name], ended = sweep(place, name, begin, options.kills, rng)
            tuned = ended if name == "tune" else tuned
    print(
        f"{'command':10}{'kills':>8}{'ended':>10}{'lost':>8}{'left running':>14}{'left behind':>13}{'other result':>14}"
    )
    for name, tally in tallies.items():
        failures = tally.lost + tally.left_running + tally.left_behind + tally.other_result
        what = f"{name}, of {options.kills} kills, lost, left or different"
        report_figure(what, float(failures), "count", better="lower", exact=True)
        print(
            f"{name:10}{tally.kills:8}{tally.after_the_end:10}{tally.lost:8}{tally.left_running:14}"
            f"{tally.left_behind:13}{tally.other_result:14}"
        )
    bad = [one for one in tallies.values() if one.lost or one.left_running or one.left_behind or one.other_result]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    with as_command():
        main()
