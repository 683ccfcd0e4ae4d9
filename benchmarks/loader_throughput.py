"""Is loading images the bottleneck? Images per second from the loader, and through a supernet's step, in turns.

python benchmarks/loader_throughput.py --space fbnet_mini --data fashion_mnist
python benchmarks/loader_throughput.py --space fbnet --data "imagefolder:/data/imagenet?classes=100" --batch 32
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from figures import report_figure
from torch.nn import functional as F

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.device import pick_device, place_batch, place_net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--form", default="sampled", choices=["mixture", "sampled", "two_path"])
    parser.add_argument("--trivial", action="store_true", help="with TrivialAugment")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    space, device = load_space(arguments.space), pick_device(arguments.device)
    data = load_data(arguments.data, space.height, space.width, space.input_channels, space.classes)
    augment = Augment(shift=2, flip=True, trivial=arguments.trivial)
    loader = Loader(data, data.train, torch.arange(len(data.train)), arguments.batch, augment, seed=0)
    net = place_net(Supernet(space), device).train()
    generator = torch.Generator().manual_seed(0)
    loading, stepping, waiting = [], [], []
    for turn in range(arguments.rounds + 1):
        started = time.perf_counter()
        plain = Loader(data, data.train, torch.arange(len(data.train)), arguments.batch, augment, seed=turn)
        pixels, labels = place_batch(*plain._load(*plain._plan()), device)
        loaded = time.perf_counter()
        F.cross_entropy(net(pixels, net.draw(arguments.form, 5.0, generator)[0]), labels).backward()
        stepped = time.perf_counter()
        loader.next()
        if turn:
            loading.append(loaded - started)
            stepping.append(stepped - loaded)
            waiting.append(time.perf_counter() - stepped)
    load, step, wait = (statistics.median(times) for times in (loading, stepping, waiting))
    batch = arguments.batch
    report_figure("loader alone", [batch / seconds for seconds in loading], "images/s", better="higher")
    report_figure(f"{arguments.form} step", [batch / seconds for seconds in stepping], "images/s", better="higher")
    print(f"loader alone: {arguments.batch / load:8.0f} images/s")
    print(f"{arguments.form + ' step:':13} {arguments.batch / step:8.0f} images/s (step/load {step / load:.2f})")
    print(f"waiting for a batch that is loaded ahead takes {wait / step:.1%} of a step")


if __name__ == "__main__":
    with as_command():
        main()
