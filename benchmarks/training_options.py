"""What each option of training gives a small net on few images: accuracy with it, less accuracy without any.

Every option is tried by itself, with the same seeds, images and number of steps. The net that is distilled from is the
largest of the space, trained in the same way. Prints means over seeds with 95 % intervals (Student's t, pairs of one
seed). Resumable: rerun it.

    python benchmarks/training_options.py --out training_options
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from figures import interval, report_figure

import tvmfbnet as tf
from tvmfbnet.cli.terminal import as_command

ARCH = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"
LARGEST = "k5_e6,k5_e6/k5_e6,k5_e6,k5_e6/k5_e6,k5_e6"
# Without any: a cosine, plain stochastic gradient descent, and images as they are.
PLAIN: dict[str, Any] = {
    **{"batch_size": 64, "lr": 0.1, "warmup_epochs": 0.5, "label_smoothing": 0.0, "ema_decay": None},
    **{"augment_shift": 0, "augment_flip": False},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "mirrored and shifted": {"augment_flip": True, "augment_shift": 2},
    "RandAugment": {"rand_augment": 2},
    "mixup": {"mixup": 0.2},
    "CutMix": {"cutmix": 1.0},
    "label smoothing": {"label_smoothing": 0.1},
    "averaged weights": {"ema_decay": 0.99},
    "accumulated in 4 parts": {"accumulate": 4},
    "distilled": {"distil_from": "largest"},
}


def accuracy(options: argparse.Namespace, name: str, seed: int) -> float:
    """Test top-1 accuracy after one training, in percent."""
    settings = {**PLAIN, **OPTIONS[name], "epochs": options.epochs, "train_images": options.images}
    settings |= {"seed": seed, "threads": 1, "device": "cpu", "test_every": options.epochs}
    if "distil_from" in settings:
        larger = {**PLAIN, "epochs": options.epochs, "train_images": options.images, "seed": seed, "threads": 1}
        trained = tf.train(LARGEST, options.space, options.data, larger, out=options.out / f"largest-{seed}")
        settings["distil_from"] = str(trained.checkpoint)
    folder = options.out / f"{name.replace(' ', '-')}-{seed}"
    return 100 * float(tf.train(ARCH, options.space, options.data, settings, out=folder).test_accuracy)


def main() -> None:
    """Prints a line of JSON for each option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    options = parser.parse_args()
    without = [accuracy(options, "none", seed) for seed in range(options.seeds)]
    for name in options.options:
        own = without if name == "none" else [accuracy(options, name, seed) for seed in range(options.seeds)]
        gains = [one - other for one, other in zip(own, without, strict=True)]
        row = {"option": name, "accuracy": round(statistics.mean(own), 2), "interval": round(interval(own), 2)}
        if name != "none":
            row |= {"gain": round(statistics.mean(gains), 2), "gain_interval": round(interval(gains), 2)}
        print(json.dumps(row), flush=True)
        report_figure(f"{name}, accuracy", own, "%", better="higher")


if __name__ == "__main__":
    with as_command():
        main()
