"""Trials are linked by the toolchain's linker alone, where that makes the same library as its compiler driver."""

import ctypes
import shutil
import subprocess
import sys

import pytest
from brief_target import brief_target

from tvmfbnet.compiler.library import link, linker
from tvmfbnet.provisioning.elf import read_elf
from tvmfbnet.targets.definition import load_target

CROSS = "aarch64-linux-gnu-g++"


def compiled(path, compiler):
    source = path.with_suffix(".c")
    source.write_text("int answer(void) { return 42; }\n")
    subprocess.run([compiler, "-x", "c", "-c", "-fPIC", source, "-o", path], check=True)
    return str(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the linker alone serves ELF only")
def test_this_machines_trials_are_linked_without_the_driver_and_load(tmp_path):
    linking, library = linker(load_target("host"), trial=True), tmp_path / "answer.so"
    assert linking["alone"] and "ld" in linking["cc"]
    link(str(library), [compiled(tmp_path / "answer.o", "c++")], **linking)
    assert read_elf(library).needed == () and ctypes.CDLL(str(library)).answer() == 42


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"{CROSS} is missing; scripts/setup --emulation installs it")
def test_a_cross_compilers_own_linker_links_for_its_machine(tmp_path):
    linking, library = linker(load_target("arm_cpu"), trial=True), tmp_path / "answer.so"
    assert linking["alone"]
    link(str(library), [compiled(tmp_path / "answer.o", CROSS)], **linking)
    assert read_elf(library).machine == "aarch64"


IN_C = ("kind: llvm, mcpu: native, num-cores: 1", "kind: c")


@pytest.mark.parametrize("change", [("command: c++", "command: c++, options: [-O1]"), IN_C])
def test_what_only_a_driver_understands_stays_with_the_driver(change, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(brief_target().replace(*change))
    assert linker(load_target(str(path)), trial=True)["cc"] == "c++"


def test_shipped_libraries_are_linked_by_the_driver():
    assert "alone" not in linker(load_target("host"))


@pytest.mark.parametrize("alone", [True, False])
def test_a_failed_link_says_why(alone, tmp_path):
    (tmp_path / "bad.o").write_text("no object\n")
    with pytest.raises(RuntimeError, match=r"bad\.o"):
        link(str(tmp_path / "bad.so"), [str(tmp_path / "bad.o")], shutil.which("ld" if alone else "c++"), (), alone)
