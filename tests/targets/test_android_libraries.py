"""A kernel library for a phone names the libraries that it calls, which Android's loader insists on."""

import subprocess

import pytest
from bundle_samples import ARM, make_library

from tvmfbnet.compiler.library import linker
from tvmfbnet.errors import UserError
from tvmfbnet.provisioning.elf import read_elf
from tvmfbnet.targets.android_libraries import KERNEL_LIBRARIES, android_libraries
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.toolchain import Compiler


@pytest.mark.parametrize("name", ["pixel", "mali", "adreno"])
@pytest.mark.parametrize("trial", [False, True])
def test_a_phones_kernels_need_tvms_and_androids_own_libraries_and_nothing_else(name, trial, tmp_path, monkeypatch):
    make_library(tmp_path / "probe.so")  # skips where the compiler is missing
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "kernel.c").write_text("float expf(float); float kernel(float x) { return expf(x); }\n")
    for again in ("first.so", "second.so"):
        link = linker(load_target(name), trial)
        words = [link["cc"], "-shared", "-fPIC", tmp_path / "kernel.c", *link["options"]]
        subprocess.run([*words, "-o", tmp_path / again], check=True)
        elf = read_elf(tmp_path / again)
        assert (elf.needed, set(elf.alignments)) == (KERNEL_LIBRARIES, {16384})


def test_a_compiler_that_links_no_library_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="nowhere-g\\+\\+, which links for Android, was not found"):
        android_libraries(Compiler("nowhere-g++"))
    make_library(tmp_path / "probe.so")
    with pytest.raises(UserError, match=f"{ARM} cannot link a shared library for Android: .*unrecognized"):
        android_libraries(Compiler(ARM, ("--no-such-option",)))
    assert not list((tmp_path / "cache").rglob("*.so"))
