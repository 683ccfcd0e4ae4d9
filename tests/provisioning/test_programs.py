"""Building for a target says exactly what is missing; what was built is built once."""

import os
from pathlib import Path

import pytest
from bundle_samples import make_ndk

from tvmfbnet.errors import UserError
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.toolchain import find_compiler
from tvmfbnet.tools import need_program


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH that holds only what a test puts there, and a cache of its own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def add(name, text="#!/bin/sh\nexit 0\n"):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return add


def test_each_missing_tool_is_named_with_its_package(tools):
    with pytest.raises(UserError, match=r"cmake, which builds the device programs.*apt-get install cmake"):
        build_programs(load_target("qemu_arm"))
    tools("cmake")
    with pytest.raises(UserError, match="apt-get install make"):
        build_programs(load_target("qemu_arm"))
    tools("ninja")
    with pytest.raises(UserError, match=r"aarch64-linux-gnu-gcc.*apt-get install g\+\+-aarch64-linux-gnu"):
        build_programs(load_target("qemu_arm"))
    with pytest.raises(UserError, match=r"qemu-aarch64.*apt-get install qemu-user"):
        server_command(load_target("qemu_arm"), "server", "127.0.0.1:1", "k")
    with pytest.raises(UserError, match=r"no-such-tool.*correct the path"):
        need_program("no-such-tool", "a test asks for")


def test_android_asks_for_the_ndk_then_for_tvms_sources(tools, monkeypatch, tmp_path):
    tools("cmake")
    tools("ninja")
    target = load_target("pixel")
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(UserError, match="set ANDROID_NDK_HOME"):
        build_programs(target)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"android\.toolchain\.cmake does not exist"):
        build_programs(target)
    make_ndk(tmp_path / "old", revision="26.3.11579264", library=False)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "old"))
    with pytest.raises(UserError, match=r"target pixel needs the Android NDK r27 or later.*is r26"):
        build_programs(target)
    sysroot = make_ndk(tmp_path / "ndk", library=False) / "toolchains/llvm/prebuilt/linux-x86_64/sysroot"
    (sysroot / "usr/lib/aarch64-linux-android/libc++_shared.so").touch()
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    with pytest.raises(UserError, match=r"git clone --recursive --branch v0.27.0"):
        build_programs(target)
    with pytest.raises(UserError, match="is not it"):
        build_programs(target, tvm_source=tmp_path)


def test_apple_needs_no_programs_and_an_ndk_linker_says_its_variable(monkeypatch):
    with pytest.raises(UserError, match=r"needs no device programs: on the Mac, `pip install apache-tvm==0.27"):
        build_programs(load_target("apple_cpu"))
    monkeypatch.delenv("TVM_NDK_CC", raising=False)
    ndk = load_target("pixel").model_copy(
        update={"toolchain": load_target("pixel").toolchain.model_copy(update={"kind": "ndk"})}
    )
    with pytest.raises(UserError, match="set TVM_NDK_CC"):
        find_compiler(ndk)


def test_a_failing_build_gives_its_error_and_leaves_nothing(tools, tmp_path):
    tools("cmake", "#!/bin/sh\necho 'CMake Error: broken here' >&2\nexit 1\n")
    tools("ninja")
    with pytest.raises(UserError, match="building the device programs failed: CMake Error: broken here"):
        build_programs(load_target("host"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_threads_cores_and_emulator_of_a_target_reach_the_servers_command_line(tools):
    target = load_target("rpi4")
    command = server_command(target, "./tvmfbnet-server", "127.0.0.1:9190", "rpi4", here=False)
    assert command[0] == "./tvmfbnet-server"
    assert command[command.index("--cores") + 1] == "3"
    assert command[command.index("--threads") + 1] == "1"
    tools("qemu-aarch64")
    assert Path(server_command(load_target("qemu_arm"), "server", "127.0.0.1:1", "k")[0]).name == "qemu-aarch64"


def test_zig_links_through_a_script_that_is_one_word(tools):
    pytest.importorskip("ziglang")
    compiler = find_compiler(load_target("apple_cpu"), "c")
    assert compiler.options == ("-target", "aarch64-macos")
    assert os.access(compiler.command, os.X_OK)
    assert ' cc "$@"' in Path(compiler.command).read_text()
