"""A build replaces what an earlier build left and nothing else; a bundle that no device could load is never kept."""

import json
import os
import subprocess

import pytest
from bundle_samples import ARM, make_library, make_ndk

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.provisioning.bundle import check_programs, is_complete, refuse_foreign, replace
from tvmfbnet.provisioning.elf import ElfError, read_elf
from tvmfbnet.provisioning.programs import Programs, build_programs
from tvmfbnet.targets.android import find_ndk
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.toolchain import find_compiler
from tvmfbnet.tools import source_folder

IDENTITY = {"sources": "1"}


@pytest.fixture
def result(tmp_path):
    """What a build made."""
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "tvmfbnet-server").write_text("new server")
    (folder / "tvmfbnet-server").chmod(0o755)
    (folder / "libnew.so").write_text("new library")
    return folder


def content(folder):
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def foreign_file(folder):
    (folder / "thesis.tex").write_text("mine")
    return "thesis.tex"


def foreign_subfolder(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").write_text("mine")
    return "photos"


def file_of_the_same_name(folder):
    (folder / "tvmfbnet-server").unlink(missing_ok=True)
    (folder / "tvmfbnet-server").write_text("my own")
    return "tvmfbnet-server"


def link_of_the_same_name(folder):
    (folder.parent / "elsewhere").write_text("mine")
    (folder / "tvmfbnet-server").unlink(missing_ok=True)
    (folder / "tvmfbnet-server").symlink_to(folder.parent / "elsewhere")
    return "tvmfbnet-server"


def hidden_file(folder):
    (folder / ".libnew.so.part").write_text("mine")
    return ".libnew.so.part"


@pytest.mark.parametrize("built_before", [False, True])
@pytest.mark.parametrize(
    "add", [foreign_file, foreign_subfolder, file_of_the_same_name, link_of_the_same_name, hidden_file]
)
def test_a_folder_with_anything_else_in_it_is_refused_and_nothing_in_it_is_touched(result, tmp_path, add, built_before):
    out = tmp_path / "out"
    out.mkdir()
    if built_before:
        replace(out, result, IDENTITY)
    foreign = add(out)
    before = content(out)
    with pytest.raises(StorageError, match="nothing was touched: give an empty or new folder") as caught:
        replace(out, result, {"sources": "2"})
    assert f"({foreign})" in str(caught.value)
    assert content(out) == before
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize("manifest", ["{}", "not JSON", '{"made": "by me"}', "[" * 100_000])
def test_a_users_own_programs_json_makes_no_manifest(result, tmp_path, manifest):
    out = tmp_path / "out"
    out.mkdir()
    (out / "programs.json").write_text(manifest)
    (out / "tvmfbnet-server").write_text("mine")
    with pytest.raises(StorageError, match=r"\(programs.json, tvmfbnet-server\)"):
        replace(out, result, IDENTITY)
    assert (out / "tvmfbnet-server").read_text() == "mine" and (out / "programs.json").read_text() == manifest


def test_a_manifest_that_names_files_elsewhere_is_none(result, tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("mine")
    replace(out, result, IDENTITY)
    manifest = json.loads((out / "programs.json").read_text())
    manifest["earlier"] = {"../victim": ["0" * 64]}
    (out / "programs.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="nothing was touched"):
        replace(out, result, IDENTITY)
    assert victim.read_text() == "mine"


def test_a_file_in_place_of_the_folder_and_a_link_to_nowhere_are_refused(result, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        replace(tmp_path / "file", result, IDENTITY)
    with pytest.raises(StorageError, match="a symbolic link that leads nowhere"):
        replace(tmp_path / "link", result, IDENTITY)
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_a_build_takes_the_place_of_an_earlier_one_and_removes_what_it_does_not_make_any_more(result, tmp_path):
    out = tmp_path / "out"
    replace(out, result, IDENTITY)
    assert is_complete(out, IDENTITY) and not is_complete(out, {"sources": "2"})
    assert os.access(out / "tvmfbnet-server", os.X_OK)
    (result / "libnew.so").rename(result / "libother.so")
    replace(out, result, {"sources": "2"})
    assert [path.name for path in Programs(out).files] == ["libother.so", "tvmfbnet-server"]
    assert not (out / "libnew.so").exists()
    (out / "libother.so").unlink()
    assert not is_complete(out, {"sources": "2"})


def test_a_build_that_was_cut_off_while_it_replaced_files_is_finished_by_the_next(result, tmp_path):
    out = tmp_path / "out"
    replace(out, result, IDENTITY)
    manifest = json.loads((out / "programs.json").read_text())
    old = manifest["files"]
    manifest |= {
        "files": {"tvmfbnet-server": "0" * 64, "libnext.so": "1" * 64},
        "earlier": {name: [sum_] for name, sum_ in old.items()},
        "finished": False,
    }
    (out / "programs.json").write_text(json.dumps(manifest))
    (out / ".libnext.so.part").write_text("half")
    (out / ".programs.json.0a1b2c3d.tmp").write_text("{")
    assert not is_complete(out, IDENTITY)
    with pytest.raises(StorageError, match="no finished build"):
        _ = Programs(out).files  # half of it is never pushed
    refuse_foreign(out)
    replace(out, result, IDENTITY)
    assert is_complete(out, IDENTITY) and set(content(out)) == {"programs.json", "tvmfbnet-server", "libnew.so"}


def test_only_what_a_build_made_is_pushed_and_the_cache_heals_itself(result, tmp_path):
    out = tmp_path / "out"
    replace(out, result, IDENTITY)
    (out / "notes.txt").write_text("mine")
    assert [path.name for path in Programs(out).files] == ["libnew.so", "tvmfbnet-server"]
    (out / "notes.txt").unlink()
    (out / "libnew.so").write_text("damaged")
    assert not is_complete(out, IDENTITY)
    replace(out, result, IDENTITY, ours=True)
    assert is_complete(out, IDENTITY)


@pytest.fixture
def cmake_that_copies(tmp_path, monkeypatch):
    """A PATH whose cmake ``builds`` by copying a folder: the rest of the build step is the real one."""
    tools, made = tmp_path / "tools", tmp_path / "made"
    tools.mkdir()
    made.mkdir()
    script = f'#!/bin/sh\n[ "$1" = --install ] || exit 0\nmkdir -p "$4" && cp {made}/* "$4"\n'
    for name in ("cmake", "ninja"):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tvm" / "include" / "tvm").mkdir(parents=True)
    return made


def test_an_android_build_without_its_cpp_library_or_with_small_pages_is_refused_and_not_kept(
    cmake_that_copies, tmp_path, monkeypatch
):
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk")))
    pixel, out, tvm = load_target("pixel"), tmp_path / "out", tmp_path / "tvm"
    make_library(cmake_that_copies / "tvmfbnet-server", needs=["libc.so", "libc++_shared.so"])
    make_library(cmake_that_copies / "libtvm_ffi.so", page=4096, needs=["libc.so", "libm.so"])
    with pytest.raises(UserError) as caught:
        build_programs(pixel, out, tvm)
    assert "tvmfbnet-server needs libc++_shared.so, which is not beside it" in str(caught.value)
    assert "libtvm_ffi.so is aligned to 4096 bytes, and pages of 16384 need" in str(caught.value)
    assert not out.exists()
    make_library(cmake_that_copies / "libc++_shared.so", needs=["libc.so"])
    (cmake_that_copies / "libtvm_ffi.so").unlink()
    make_library(cmake_that_copies / "libtvm_ffi.so", needs=["libc.so", "libm.so"])
    names = [path.name for path in build_programs(pixel, out, tvm).files]
    assert names == ["libc++_shared.so", "libtvm_ffi.so", "tvmfbnet-server"]
    (out / "mine").write_text("mine")
    make_ndk(tmp_path / "newer", revision="28.1.13356709")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "newer"))
    with pytest.raises(StorageError, match=r"\(mine\)"):
        build_programs(pixel, out, tvm)  # another NDK makes other programs, and the folder is not ours alone now
    assert (out / "mine").read_text() == "mine" and not (tmp_path / "out.lock").exists()


def test_another_machines_library_is_found_in_a_bundle(tmp_path):
    make_library(tmp_path / "libx.so", compiler="cc")
    for system in ("android", "aarch64-linux"):
        with pytest.raises(UserError, match=r"libx.so is for \w+ \(64 bits\), not aarch64"):
            check_programs(tmp_path, system)
    (tmp_path / "libx.so").unlink()
    with pytest.raises(UserError, match="there are no programs among them"):
        check_programs(tmp_path, "android")
    make_library(tmp_path / "liby.so", page=4096, needs=["libc.so.6"])
    check_programs(tmp_path, "aarch64-linux")  # boards have pages of any size that their kernel's makers chose
    with pytest.raises(UserError, match=r"liby\.so needs libc\.so\.6"):
        check_programs(tmp_path, "android")


def test_damaged_and_other_files_are_no_elf_and_end_in_one_line(tmp_path):
    whole = make_library(tmp_path / "libx.so", needs=["libc.so", "liblog.so"])
    elf = read_elf(whole)
    assert (elf.machine, elf.bits, elf.needed) == ("aarch64", 64, ("libc.so", "liblog.so"))
    assert elf.alignments and set(elf.alignments) == {16384}
    data = whole.read_bytes()
    broken = tmp_path / "broken.so"
    for size in (0, 3, 19, 40, 70, 200, 500):
        broken.write_bytes(data[:size])
        with pytest.raises(ElfError, match=r"broken\.so is (no|a damaged) ELF file"):
            read_elf(broken)
    for position in range(0, 64):
        broken.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            read_elf(broken)
        except ElfError as error:
            assert len(str(error).splitlines()) == 1


def test_the_ndks_age_and_parts_are_looked_at(tmp_path, monkeypatch):
    for name, options, message in (
        ("old", {"revision": "26.3.11579264"}, r"needs the Android NDK r27 or later.*is r26 \(26.3.11579264\)"),
        ("ageless", {"revision": ""}, "source.properties does not exist, so its age is unknown"),
        ("odd", {"revision": "new"}, "names no Pkg.Revision"),
        ("bare", {"library": False}, r"needs libc\+\+_shared.so of the Android NDK, which .*bare lacks"),
    ):
        monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / name, **options)))
        with pytest.raises(UserError, match=message):
            find_ndk("a test")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "beta", revision="29.0.13113456-beta1")))
    assert find_ndk("a test").revision == "29.0.13113456-beta1"


def test_cmake_aligns_for_large_pages_and_installs_the_ndks_library(tmp_path):
    ndk = make_ndk(tmp_path / "ndk")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(small LANGUAGES C)\n"
        f"include({source_folder()}/device/cmake/android.cmake)\n"
        "add_library(small SHARED small.c)\ninstall(TARGETS small LIBRARY DESTINATION .)\n"
    )
    (tmp_path / "small.c").write_text("int small(void) { return 1; }\n")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ndk}/build/cmake/android.toolchain.cmake"
    for words in (
        ["-S", tmp_path, "-B", tmp_path / "build", toolchain],
        ["--build", tmp_path / "build"],
        ["--install", tmp_path / "build", "--prefix", tmp_path / "installed", "--strip"],
    ):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert set(read_elf(tmp_path / "installed" / "libsmall.so").alignments) == {16384}
    assert read_elf(tmp_path / "installed" / "libc++_shared.so").needed == ("libc.so",)


@pytest.mark.parametrize("kind", ["ndk", "cxx"])
def test_a_phones_kernels_are_linked_for_large_pages_whatever_links_them(kind, monkeypatch, tmp_path):
    make_library(tmp_path / "probe.so")  # skips where the compiler is missing
    monkeypatch.setenv("TVM_NDK_CC", ARM)
    pixel = load_target("pixel")
    chain = pixel.toolchain.model_copy(update={"kind": kind, "command": ARM, "options": ()})
    compiler = find_compiler(pixel.model_copy(update={"toolchain": chain}))
    (tmp_path / "kernel.c").write_text("int kernel(void) { return 1; }\n")
    words = ["-shared", "-fPIC", "-nostdlib", "-Wl,-z,max-page-size=4096", *compiler.options]
    subprocess.run([compiler.command, *words, tmp_path / "kernel.c", "-o", tmp_path / "kernel.so"], check=True)
    assert set(read_elf(tmp_path / "kernel.so").alignments) == {16384}
