"""Time and peak memory of one training step of the supernet's weights, form by form, as ratios to the plain form.

Plain is the step that one would write first: all blocks of a layer one after the other, contiguous, float32. All forms
take turns in one process, so that a machine that slows down does so for all; memory is the growth of the peak resident
set in a process of its own for each form.

    python benchmarks/supernet_steps.py --space fbnet_cifar --batch 64
    python benchmarks/supernet_steps.py --space fbnet --batch 8 --rounds 3 --threads 2
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

import torch
from torch.nn import functional as F

from tvmfbnet.nets.device import place_net
from tvmfbnet.nets.forms import Form
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.registry import load_space


@dataclass(frozen=True)
class Variant:
    """One way to do the step."""

    form: Form = "mixture"
    merged: bool = True
    save_memory: bool = False
    channels_last: bool = True


VARIANTS = {
    "plain": Variant(merged=False, channels_last=False),
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


def memory_of(name: str, arguments: argparse.Namespace) -> int:
    """What a step of one form adds to the peak resident set, measured in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--space", arguments.space]
    command += ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def times_of(names: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of each form, taken in turns after one unmeasured round."""
    steps = {name: Step(name, arguments.space, arguments.batch) for name in names}
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(arguments.rounds + 1):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            if turn:
                found[name]["wall"].append(time.perf_counter() - wall)
                found[name]["cpu"].append(time.process_time() - cpu)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_cifar")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", default=",".join(VARIANTS), help="comma-separated; plain is always there")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        step = Step(arguments.only, arguments.space, arguments.batch)
        before = peak_bytes()
        step()
        print(json.dumps(peak_bytes() - before))
        return
    names = list(dict.fromkeys(["plain", *arguments.forms.split(",")]))
    memory = {} if arguments.no_memory else {name: memory_of(name, arguments) for name in names}
    times = times_of(names, arguments)
    plain = {kind: statistics.median(values) for kind, values in times["plain"].items()}
    print(f"{arguments.space}, batch {arguments.batch}, {arguments.threads} threads, medians of {arguments.rounds}")
    print(f"{'form':14} {'seconds':>8} {'plain/form':>11} {'processor':>10} {'plain/form':>11} {'MB':>7} {'/plain':>7}")
    for name in names:
        wall, cpu = (statistics.median(times[name][kind]) for kind in ("wall", "cpu"))
        used = f"{memory[name] / 1e6:7.0f} {memory[name] / memory['plain']:7.2f}" if memory else ""
        print(f"{name:14} {wall:8.3f} {plain['wall'] / wall:11.2f} {cpu:10.3f} {plain['cpu'] / cpu:11.2f} {used}")


if __name__ == "__main__":
    main()
