"""Seconds and peak memory of one whole step of a search, form by form, against the plain mixture, on one device.

A step is forward, backward and the optimiser, as a search takes it, on noise of the space's shape. Plain is what one
would write first: all blocks of a layer one after the other, contiguous, float32. Every form first takes a step that is
not counted, then as many as fit into its share of the time; medians are printed, and ratios to plain. A form that runs
out of memory says so and is left out. Also timed is one step of training a net, as it is and compiled by torch.compile.

By default ``fbnet``, batch 192, within 8 minutes, on a GPU if there is one:

    python benchmarks/gpu_steps.py
    python benchmarks/gpu_steps.py --device cpu --space fbnet_mini --batch 8 --minutes 1
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from figures import report_figure
from torch import nn
from torch.nn import functional as F

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.files import write_json
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.precision import Precision, computing_in
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.nets.supernet import Mix, Supernet
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.training.device import pick_device, place_net
from tvmfbnet.training.memory import is_out_of_memory, keep_freed_memory

TEMPERATURE = 5.0
# Share of a form's time after which no further step begins: the last one must end within it.
ENOUGH = 0.7


@dataclass(frozen=True)
class Variant:
    """One way to do a step.

    Attributes:
        form: of the supernet's step; "warm-up" runs one block per layer, "net" trains one arch by itself.
        merged: large joint operations for mixtures.
        save_memory: recompute mixtures in the backward pass.
        channels_last: memory format.
        precision: of convs and products.
        compiled: by torch.compile.
    """

    form: Form | Literal["warm-up", "net"] = "mixture"
    merged: bool = True
    save_memory: bool = False
    channels_last: bool = True
    precision: Precision = "float32"
    compiled: bool = False


VARIANTS = {
    "plain": Variant(merged=False, channels_last=False),
    "plain bfloat16": Variant(merged=False, channels_last=False, precision="bfloat16"),
    "channels_last": Variant(merged=False),
    "mixture": Variant(),
    "mixture bfloat16": Variant(precision="bfloat16"),
    "save_memory": Variant(save_memory=True),
    "save_memory bfloat16": Variant(save_memory=True, precision="bfloat16"),
    "two_path": Variant(form="two_path"),
    "two_path bfloat16": Variant(form="two_path", precision="bfloat16"),
    "sampled": Variant(form="sampled"),
    "sampled bfloat16": Variant(form="sampled", precision="bfloat16"),
    "warm-up": Variant(form="warm-up"),
    "net": Variant(form="net"),
    "net bfloat16": Variant(form="net", precision="bfloat16"),
    "net contiguous": Variant(form="net", channels_last=False),
    "net compiled": Variant(form="net", compiled=True),
    "net bfloat16 compiled": Variant(form="net", precision="bfloat16", compiled=True),
}


def step_of(variant: Variant, space: Space, batch: int, device: torch.device) -> Callable[[], None]:
    """One step of a variant, which ends when the device has done it."""
    torch.manual_seed(0)
    net: nn.Module
    if variant.form == "net":
        middle = Arch(tuple(layer.blocks[len(layer.blocks) // 2] for layer in space.layers))
        net = build_net(middle, space)
    else:
        net = Supernet(space, variant.merged, variant.save_memory)
    net = place_net(net, device) if variant.channels_last else net.to(device)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    pixels = torch.randn(batch, space.input_channels, space.height, space.width, device=device)
    pixels = pixels.contiguous(memory_format=layout)
    labels = torch.randint(0, space.classes, (batch,), device=device)
    optimiser = torch.optim.SGD(net.train().parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    forward: Any = torch.compile(net) if variant.compiled else net
    generator = torch.Generator().manual_seed(0)

    def mix() -> tuple[Mix, ...]:
        if not isinstance(net, Supernet):
            return ()
        if variant.form == "warm-up":
            return (net.uniform_choice(generator),)
        if variant.form == "net":
            raise ValueError("a supernet is no net")
        return (net.draw(variant.form, TEMPERATURE, generator)[0],)

    def step() -> None:
        with computing_in(variant.precision, device):
            logits = forward(pixels, *mix()).float()
        optimiser.zero_grad()
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        wait(device)

    return step


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def fresh_memory(device: torch.device) -> Iterator[None]:
    """Nothing of an earlier form is left on the device, and the peak is counted from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield


def measure(variant: Variant, space: Space, batch: int, device: torch.device, seconds: float) -> dict[str, Any]:
    """What a variant takes: its steps' seconds, its first step's, and the device's peak memory."""
    started = time.perf_counter()
    with fresh_memory(device):
        step = step_of(variant, space, batch, device)
        step()
        first, taken = time.perf_counter() - started, []
        while not taken or time.perf_counter() - started < ENOUGH * seconds:
            before = time.perf_counter()
            step()
            taken.append(time.perf_counter() - before)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"seconds": statistics.median(taken), "steps": len(taken), "first_seconds": first, "peak_bytes": peak}


def report(name: str, record: dict[str, Any], plain: dict[str, Any] | None) -> str:
    """One line."""
    ratio = f"{plain['seconds'] / record['seconds']:6.2f}x" if plain is not None else f"{'':7}"
    memory = "" if record["peak_bytes"] is None else f" {record['peak_bytes'] / 1e9:7.2f} GB"
    return (
        f"{name:22} {1000 * record['seconds']:9.1f} ms {ratio}{memory}  ({record['steps']} steps; "
        f"first {record['first_seconds']:.1f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--minutes", type=float, default=7.5, help="for all forms together")
    parser.add_argument("--forms", default=",".join(VARIANTS), help="separated by commas; plain is always timed")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--out", type=Path, help="a JSON file with all figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, space = pick_device(arguments.device), load_space(arguments.space)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{space.name}, batch {arguments.batch}, {name}, torch {torch.__version__}; ratios are plain/form", flush=True
    )
    forms = list(dict.fromkeys(["plain", *arguments.forms.split(",")]))
    ends, records = time.monotonic() + 60 * arguments.minutes, dict[str, Any]()
    for number, form in enumerate(forms):
        left = ends - time.monotonic()
        if left <= 0:
            print(f"{form:22} left out: the time is over")
            continue
        try:
            records[form] = measure(VARIANTS[form], space, arguments.batch, device, left / (len(forms) - number))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"{form:22} out of memory", flush=True)
            continue
        print(report(form, records[form], records.get("plain")), flush=True)
        if form != "plain" and "plain" in records:
            speedup = records["plain"]["seconds"] / records[form]["seconds"]
            report_figure(f"{space.name}, {form}, speedup over plain", speedup, "ratio", better="higher")
    if arguments.out is not None:
        about = {"space": space.name, "batch": arguments.batch, "device": name, "torch": torch.__version__}
        write_json(arguments.out, {**about, "forms": records})


if __name__ == "__main__":
    with as_command():
        main()
