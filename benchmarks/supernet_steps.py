"""Time and peak memory of one training step of the supernet's weights, form by form, as ratios to the plain form.

Plain is the step that one would write first: all blocks of a layer one after the other, contiguous, float32, gradients
as torch computes them, memory by the C library's own settings (``plain``). These make the system clear the same
gigabytes for every step, so ``--against plain_keeping``, which keeps the memory that it frees as ours do, is the harder
comparison. Each form runs in a process of its own and takes turns with one of the plain form, so that a machine that
slows down does so for both. Ratios are medians over the rounds, followed by the least and the largest. Memory is the
growth of the peak resident set.

    python benchmarks/supernet_steps.py --space fbnet_cifar --batch 64
    python benchmarks/supernet_steps.py --space fbnet --batch 8 --against plain_keeping --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from figures import report_figure
from torch.nn import functional as F

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.device import place_net
from tvmfbnet.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Variant:
    """One way to do the step."""

    form: Form = "mixture"
    merged: bool = True
    save_memory: bool = False
    channels_last: bool = True
    keep_memory: bool = True


VARIANTS = {
    "plain": Variant(merged=False, channels_last=False, keep_memory=False),
    "plain_keeping": Variant(merged=False, channels_last=False),
    "channels_last": Variant(merged=False),
    "mixture": Variant(),
    "save_memory": Variant(save_memory=True),
    "two_path": Variant(form="two_path"),
    "sampled": Variant(form="sampled"),
}


class Step:
    """A supernet and a batch; calling it does forward and backward once."""

    def __init__(self, name: str, space_name: str, batch: int) -> None:
        variant, space = VARIANTS[name], load_space(space_name)
        if variant.keep_memory:
            keep_freed_memory()
        torch.manual_seed(0)
        self.net = Supernet(space, variant.merged, variant.save_memory).train()
        if variant.channels_last:
            self.net = place_net(self.net, torch.device("cpu"))
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        pixels = torch.randn(batch, space.input_channels, space.height, space.width)
        self.pixels = pixels.contiguous(memory_format=layout)
        self.labels = torch.randint(0, space.classes, (batch,))
        self.form, self.generator = variant.form, torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Forward and backward."""
        self.net.zero_grad()
        mix, _ = self.net.draw(self.form, 5.0, self.generator)
        F.cross_entropy(self.net(self.pixels, mix), self.labels).backward()


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(name: str, arguments: argparse.Namespace) -> None:
    """Does a step for each line of input and tells what it took, until input ends."""
    step = Step(name, arguments.space, arguments.batch)
    before = peak_bytes()
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "bytes": peak_bytes() - before}
        print(json.dumps(took), flush=True)


class Worker:
    """A process that does steps of one form when asked."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--only", name, "--space", arguments.space]
        command += ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.taken: list[dict[str, Any]] = []
        self._ask()  # a first step, which is slower

    def _ask(self) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a worker without pipes")
        stdin.write("step\n")
        stdin.flush()
        return dict(json.loads(stdout.readline()))

    def step(self) -> None:
        """One step, noted."""
        self.taken.append(self._ask())

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def median(self, kind: str) -> float:
        """Of what the steps took."""
        return statistics.median(took[kind] for took in self.taken)


def speedups(plain: Worker, worker: Worker, kind: str) -> list[float]:
    """How many times less one form took than the plain one, in each round."""
    return [theirs[kind] / mine[kind] for theirs, mine in zip(plain.taken, worker.taken, strict=True)]


def faster(plain: Worker, worker: Worker, kind: str) -> str:
    """The median, least and largest speedup of the rounds."""
    ratios = speedups(plain, worker, kind)
    return f"{statistics.median(ratios):7.2f} ({min(ratios):5.2f}-{max(ratios):5.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_cifar")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", default="channels_last,mixture,save_memory,two_path,sampled")
    parser.add_argument("--against", choices=["plain", "plain_keeping"], default="plain")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        serve(arguments.only, arguments)
        return
    print(
        f"{arguments.space}, batch {arguments.batch}, {arguments.threads} threads, {arguments.rounds} rounds, "
        f"plain is {arguments.against}"
    )
    print(f"{'form':14} {'seconds':>8} {'plain/form':>21} {'processor':>10} {'plain/form':>21} {'MB':>7} {'/plain':>7}")
    plain = Worker(arguments.against, arguments)
    for name in arguments.forms.split(","):
        worker = Worker(name, arguments)
        plain.taken.clear()
        for _ in range(arguments.rounds):
            plain.step()
            worker.step()
        worker.end()
        used, plain_used = worker.median("bytes"), plain.median("bytes")
        print(
            f"{name:14} {worker.median('wall'):8.3f} {faster(plain, worker, 'wall')} {worker.median('cpu'):10.3f} "
            f"{faster(plain, worker, 'cpu')} {used / 1e6:7.0f} {used / plain_used:7.2f}   "
            f"(plain {plain.median('wall'):.3f} s, {plain_used / 1e6:.0f} MB)",
            flush=True,
        )
        report_form(name, plain, worker)
    plain.end()


def report_form(name: str, plain: Worker, worker: Worker) -> None:
    """Hands the figures of a form to `run.py`."""
    memory = worker.median("bytes") / plain.median("bytes")
    report_figure(f"{name}, speedup over plain", speedups(plain, worker, "wall"), "ratio", better="higher")
    report_figure(f"{name}, speedup in CPU time", speedups(plain, worker, "cpu"), "ratio", better="higher")
    report_figure(f"{name}, peak memory over plain's", memory, "ratio", better="lower")


if __name__ == "__main__":
    with as_command():
        main()
