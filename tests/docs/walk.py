"""One folder in which the commands of a page run, each with a small space, little data and few trials."""

import getpass
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from brief_target import ONCE
from documented import ROOT
from finished_runs import write_finished_run
from forked import run_command
from PIL import Image
from shown_files import shown_files

from tvmfbnet.provisioning.loopback import free_port

# Of every kind of part as few as the commands need: the regressor learns from eight parts, `validate` times five nets.
SPACE = """
input: {channels: 1, height: 28, width: 28}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 2}
  - {channels: 8, layers: 1, stride: 2}
blocks: [k3_e1, k5_e1, skip]
last_channels: 8
"""
ARCH = "k3_e1/k5_e1"
QUICK = {"epochs": 3, "batch_size": 16, "augment_shift": 0, "threads": 1, "device": "cpu"}
SEARCH = {**QUICK, "warmup_epochs": 1, "candidates": 3, "bn_images": 32}
TRAIN = {**QUICK, "warmup_epochs": 1}
RECIPE = {
    "description": "the demo in seconds",
    "target": "host",
    "space": "tiny.yaml",
    "tune": {"trials": 1, "batch": 1},
    "search": SEARCH,
    "train": TRAIN,
}
# Simulated targets are this machine, too: tests/provisioning/test_simulated_device.py has real ones.
BOARDS = ("rpi4", "rpi5", "phone", "sim_a76")


def tvmfbnet(*words):
    return [sys.executable, "-m", "tvmfbnet", *words]


# On top of it, for the demo in int8.
INT8 = {"dtype": "int8", "quantisation": {"fine_tune_epochs": 2, "fine_tune_lr": 0.02}}


class Walk:
    """The folder, its space, data, recipe and boards, and what runs in the background.

    A board is this machine: behind a tracker and the server program where a page starts one by ``device start``, else
    on loopback.
    """

    def __init__(self, folder, ssh_options=()):
        self.folder, self.ssh_options = folder, ssh_options
        self.port, self.tunnel_port, self.server_port = free_port(), free_port(), free_port()
        self.background, self.space = [], "tiny.yaml"
        self.shown = set()
        self.data = f"fashion_mnist:{folder / 'digits'}"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "TVMFBNET_TUNING_LOGS": "tuning_logs"}
        (folder / "tiny.yaml").write_text(SPACE)
        for name, settings in (
            ("search", SEARCH),
            ("train", TRAIN),
            ("small", {**RECIPE, "data": self.data}),
            ("small_int8", {**RECIPE, **INT8, "data": self.data}),
        ):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        (folder / "targets").mkdir()
        for name in ("host", *BOARDS):
            self._write_target(name)
        write_images(folder)
        np.zeros((1, 1, 28, 28), np.float32).tofile(folder / "image.bin")

    def _write_target(self, name):
        board = {"name": name, "description": "this machine", "exercised": False, "timing": ONCE}
        # What is walked is commands, not the speed of kernels: LLVM takes a third of the time without optimising.
        board["tvm"] = {"kind": "llvm", "mcpu": "native", "num-cores": 1, "opt-level": 0}
        remote = self.ssh_options and name == "rpi4"
        where = {"kind": "tracker", "port": self.port} if remote else {"kind": "local"}
        board["transport"] = {**where, "key": name}
        (self.folder / "targets" / f"{name}.yaml").write_text(yaml.safe_dump(board))

    def write_shown_files(self, page):
        """Writes the files that a page shows: code whose fence has a title."""
        for name, content in shown_files(page).items():
            (self.folder / name).write_text(content)
            self.shown.add(name)

    def run(self, words, check=(0,)):
        """Runs a command to its end and gives what it printed; AssertionError with its messages where it failed."""
        if words[:3] == tvmfbnet():
            done = run_command(words[3:], self.folder, self.environment)
        else:
            given = {"cwd": self.folder, "env": self.environment, "stdin": subprocess.DEVNULL}
            done = subprocess.run(words, capture_output=True, text=True, **given)
        assert done.returncode in check, f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr[-2000:]}"
        return done.stdout

    def start(self, words, ready):
        """Starts a command that runs until it is stopped, and waits until it is ready."""
        path = self.folder / f"background{len(self.background)}.log"
        with path.open("w") as log:
            child = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                # What runs the tests may be deaf to Ctrl-C, as the background jobs of a shell are.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        self.background.append(child)
        deadline = time.monotonic() + 120
        while not ready():
            assert child.poll() is None and time.monotonic() < deadline, path.read_text()
            time.sleep(0.1)

    def stop(self):
        """Ends what the page left running, as its reader would."""
        if (self.folder / "board").exists():
            self.run(tvmfbnet("device", "stop", "--target", "rpi4", *self.way()))
        for child in self.background:
            child.send_signal(signal.SIGINT)
        for child in self.background:
            child.wait(30)

    def way(self):
        """In place of ``--ssh pi@raspberrypi``."""
        options = [word for option in self.ssh_options for word in ("--ssh-option", option)]
        return ["--ssh", f"{getpass.getuser()}@127.0.0.1", *options, "--folder", str(self.folder / "board")]

    def found_arch(self):
        """The arch that the page's search printed; any one on a page without a search."""
        if not (self.folder / "runs/s1/archs.json").exists():
            return ARCH
        return json.loads((self.folder / "runs/s1/archs.json").read_text())[0]["arch"]

    def finish_runs(self, folders):
        """Finished runs, each for the target that its folder is called after; they may be there already."""
        for folder in folders:
            if not (self.folder / folder).exists():
                about = {"space": str(self.folder / "tiny.yaml"), "data": self.data, "latency_target_share": 0.5}
                recipe = {"target": Path(folder).name, **about, "search": SEARCH, "train": TRAIN}
                write_finished_run(self.folder / folder, recipe, ARCH)

    def runner(self):
        """The native runner, built for this machine."""
        built = json.loads(self.run(tvmfbnet("device", "build", "--target", "rpi4", "--json")))
        return str(Path(built["folder"]) / "tvmfbnet-run")


def write_images(folder):
    """A learnable data set of ten classes, as Fashion-MNIST's files and as folders of images."""
    generator = np.random.default_rng(0)
    (folder / "digits").mkdir()
    for part, name, count in (("train", "train", 120), ("t10k", "val", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = generator.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for index, label in enumerate(labels):
            pixels[index, 2 * label : 2 * label + 8, 4:20] += 150
            path = folder / "images" / name / f"class{label}" / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[index]).save(path)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / "digits" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
