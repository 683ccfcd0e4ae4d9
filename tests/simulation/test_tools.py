"""Missing and outdated tools give one clear line."""

import stat

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.tools import find_llvm, missing_tools


def fake(folder, name, version):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'LLVM version {version}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def pair(folder, version, suffix=""):
    fake(folder, f"llvm-mc{suffix}", version)
    fake(folder, f"llvm-mca{suffix}", version)


def test_nothing_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"apt-get install llvm-19\)$") as raised:
        find_llvm()
    assert "\n" not in str(raised.value)
    missing = missing_tools()
    assert len(missing) == 2
    assert "qemu-aarch64" in missing[1] and "qemu-user" in missing[1]
    assert "qemu-x86_64" in missing_tools("x86_64")[1]


def test_the_oldest_version_that_works_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    pair(tmp_path, "20.1.0", "-20")
    pair(tmp_path, "21.0.0")
    assert find_llvm().version == "20.1.0"
    pair(tmp_path, "19.1.7", "-19")
    assert find_llvm().version == "19.1.7"


def test_an_older_version_is_refused_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    pair(tmp_path, "14.0.6")
    with pytest.raises(UserError, match=r"llvm-mca is of version 14\.0\.6, too old"):
        find_llvm()


def test_one_tool_of_two_or_two_versions_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    fake(tmp_path, "llvm-mca-19", "19.1.7")
    with pytest.raises(UserError, match="not found"):
        find_llvm()
    fake(tmp_path, "llvm-mc", "19.1.7")
    fake(tmp_path, "llvm-mca", "20.1.0")
    with pytest.raises(UserError, match="not found"):
        find_llvm()
