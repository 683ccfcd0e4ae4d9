"""Every shipped target compiles here, with the toolchain that it names, to a library of the device's own format."""

import shutil
import struct

import pytest

from tvmfbnet.cli.main import app
from tvmfbnet.compiler.library import linker
from tvmfbnet.errors import UserError
from tvmfbnet.targets.definition import list_targets, load_target

pytestmark = pytest.mark.slow

ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
MACHO_ARM64 = 0x0100000C


def library_format(path):
    """(container, machine) of a shared library, read from its header."""
    head = path.read_bytes()[:20]
    if head[:4] == b"\x7fELF":
        return "elf", ELF_MACHINES[struct.unpack_from("<H", head, 18)[0]]
    magic, machine = struct.unpack_from("<II", head)
    assert magic == 0xFEEDFACF, head
    assert machine == MACHO_ARM64
    return "macho", "aarch64"


# Of the simulated targets, which differ in mcpu alone, one.
NAMES = [name for name in list_targets() if not load_target(name).is_simulated or name == "sim_a76"]


@pytest.mark.parametrize("name", NAMES)
def test_a_net_compiles_for_every_shipped_target(name, tiny_space_file, tmp_path):
    target = load_target(name)
    try:
        linker(target)
    except UserError as error:
        pytest.skip(str(error))
    out = tmp_path / "package"
    command = ["compile", "k3_e1/k3_e3,k3_e1", "--space", str(tiny_space_file), "--target", name, "--build-only"]
    assert app(args=[*command, "--out", str(out)], standalone_mode=False) in (0, None)
    container, machine = library_format(out / "net.so")
    assert container == ("macho" if target.system == "apple" else "elf")
    if target.triple:
        assert machine == target.triple.split("-")[0]
    if target.device != "cpu":
        # The GPU's kernels travel inside as source.
        mark = b"__kernel void" if target.device == "opencl" else b"kernel void"
        assert mark in (out / "net.so").read_bytes()


def test_the_cross_compilers_of_the_shipped_targets_are_two_and_both_are_here_or_named():
    """A skipped target says what to install; nothing is skipped where all of it is installed."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        with pytest.raises(UserError, match="apt-get install g\\+\\+-aarch64-linux-gnu"):
            linker(load_target("arm_cpu"))
    else:
        assert linker(load_target("arm_cpu"))["cc"] == "aarch64-linux-gnu-g++"
