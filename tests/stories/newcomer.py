"""What the stories of a newcomer share: the real command line in a folder of their own, images made on the spot."""

import os
from pathlib import Path

import numpy as np
from brief_target import brief_target
from forked import run_command
from PIL import Image

ROOT = Path(__file__).parents[2]
# This machine, measured as briefly as will do.
TARGET = brief_target(min_repeat_ms=1, visits=1, rest_seconds=0, trial_min_ms=1)


def tvmfbnet(folder, *words, codes=(0,)):
    """Runs a command in a folder as a user does; gives what it printed, AssertionError where it failed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TVMFBNET_TUNING_LOGS", None)
    done = run_command(words, folder, environment)
    told = f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr[-3000:]}"
    assert done.returncode in codes and "Traceback" not in done.stderr, told
    return done


def make_photos(folder, names, train, val, size=(40, 36)):
    """Colour photos of some classes, a folder each: the class is where the bright stripe is and of what colour."""
    generator = np.random.default_rng(0)
    width, height = size
    for part, count in (("train", train), ("val", val)):
        for number, name in enumerate(names):
            place = folder / part / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 80, (height, width, 3), dtype=np.uint8)
                top = number * height // len(names)
                pixels[top : top + height // len(names), :, number % 3] += 150
                Image.fromarray(pixels).save(place / f"{index:03}.jpg")
    return folder
