"""A small net compiled for a target, and running its package through the native runner."""

import json
import subprocess

import numpy as np
import torch

from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

SMALL_SPACE = """
input: {channels: 1, height: 16, width: 16}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 2}
  - {channels: 8, layers: 2, stride: 1}
blocks: [k3_e1, k3_e3]
last_channels: 8
"""


def compile_small(target, out, change=""):
    """A net of the space, spelled with a change such as ``,head=ssdlite``, and its package."""
    file = out / "tiny.yaml"
    file.write_text(SMALL_SPACE)
    arch, space = resolve_arch("k3_e1/k3_e3,k3_e1", load_space(f"{file}{change}"))
    net = untrained_net(arch, space)
    return net, compile_net(net, resolve(load_target(target)), None, out / "package")


def run_package(command, net, package, folder):
    """The runner's output and PyTorch's for one random input, and what the runner printed."""
    image = np.random.default_rng(3).standard_normal(package.input_shape).astype(np.float32)
    image.tofile(folder / "input.bin")
    arguments = ["--package", package.folder, "--input", folder / "input.bin", "--output", folder / "output.bin"]
    done = subprocess.run(
        [*command, *arguments, "--repeats", "3", "--min-repeat-ms", "1"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(image)).numpy()
    return np.fromfile(folder / "output.bin", np.float32).reshape(expected.shape), expected, json.loads(done.stdout)
