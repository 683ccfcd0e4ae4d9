"""Every step of docs/how-to/phones.md, with the real adb, on an Android-like system whose programs run in qemu."""

import json

import pytest
import yaml
from android_root import AndroidRoot, what_is_missing
from stand_in_ndk import stand_in_ndk
from typer.testing import CliRunner

from tvmfbnet.cli.main import app
from tvmfbnet.provisioning.adb_shell import AdbShell
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.pushing import push
from tvmfbnet.provisioning.remote_server import device_facts_by_shell
from tvmfbnet.provisioning.service import Service
from tvmfbnet.provisioning.system_check import check_system
from tvmfbnet.targets.definition import load_target

pytestmark = [pytest.mark.rpc, pytest.mark.slow, pytest.mark.emulated]
LARGE_PAGE = 16384
TIMING = {
    **{"drift_limit": 9.0, "rest_seconds": 0, "repeats": 3, "min_repeat_ms": 1, "visits": 1, "chain_rounds": 1},
    **{"warmup": 1, "trial_repeats": 1, "trial_min_ms": 1},
}
SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 1}
blocks: [k3_e1]
last_channels: 4
"""


@pytest.fixture
def android(tmp_path):
    """Starts Android-like systems; they end with the test."""
    if what_is_missing():
        pytest.skip(what_is_missing())
    running = []

    def start(**options):
        running.append(AndroidRoot(tmp_path / f"android{len(running)}", **options))
        return running[-1]

    yield start
    for system in running:
        system.close()


@pytest.fixture
def pixel(tmp_path, monkeypatch, adb):
    """A file of the shipped target for such a phone, with a tracker and timings of its own; the NDK is a stand-in."""
    shipped = load_target("pixel").model_dump(mode="json", exclude_defaults=True)
    transport = {"kind": "tracker", "port": free_port(), "key": "pixel"}
    target = shipped | {"cores": "0", "timing": TIMING, "transport": transport}
    (tmp_path / "pixel.yaml").write_text(yaml.safe_dump(target))
    (tmp_path / "tiny.yaml").write_text(SPACE)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(stand_in_ndk()[0]))
    monkeypatch.chdir(tmp_path)
    return transport["port"]


def tvmfbnet(*words):
    """A command in this process, which has loaded everything."""
    done = CliRunner().invoke(app, [*map(str, words), "--target", "pixel.yaml"])
    assert done.exit_code == 0, f"{words}: {done.exit_code} {done.exception}\n{done.output}"
    return done


def device(action, *words):
    return tvmfbnet("device", action, *words)


def test_a_phone_from_the_build_to_its_first_latencies(android, pixel, connect):
    system = android(page=LARGE_PAGE)
    phone = connect(system=system)
    tvm, space = stand_in_ndk()[1], ("--space", "tiny.yaml")

    built = json.loads(device("build", "--tvm-source", tvm, "--json").stdout)
    assert {"tvmfbnet-server", "libc++_shared.so"} <= set(built["files"])
    pushed = json.loads(device("push", "--adb", "--tvm-source", tvm, "--json").stdout)
    assert pushed["folder"] == "/data/local/tmp/tvmfbnet"
    assert (pushed["device"]["page_size"], pushed["device"]["machine"]) == (str(LARGE_PAGE), "aarch64")

    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(pixel)])
    try:
        tracker.wait_until_ready()
        assert "serves key pixel" in device("start", "--adb").stdout
        tuned = json.loads(tvmfbnet("tune", *space, "--trials", "1", "--batch", "1", "--json").stdout)
        assert tuned["measured_now"] == tuned["parts"] > 0 and tuned["untuned"] == []
        tvmfbnet("compile", "k3_e1", *space, "--out", "package")
        timed = json.loads(tvmfbnet("bench", "package", "--json").stdout)
        assert timed["runtimes"] and timed["runtimes"][0]["latency_ms"] > 0
        logged = device("logs", "--adb")
        assert "session of 127.0.0.1" in logged.stdout and not logged.stderr

        system.run("kill -9 $(cat /data/local/tmp/tvmfbnet/server.pid)")  # as Android does when memory is short
        logged = device("logs", "--adb")
        assert "the system killed it (signal 9)" in logged.stderr and len(logged.stderr.splitlines()) == 1
        assert "serves key pixel" in device("start", "--adb").stdout
    finally:
        stopped = device("stop", "--adb").stdout
        tracker.stop()
    assert stopped == f"server on phone {phone.serial} stopped\n"
    assert system.run("ls -A /data/local/tmp/tvmfbnet | grep session-; pgrep tvmfbnet").stdout == b""


def test_a_phone_that_denies_what_is_asked_about_it_serves_all_the_same(android, pixel, connect):
    denied = ("/proc/cpuinfo", "/proc/stat", "/proc/device-tree", "/sys/devices/system/cpu", "/sys/class/thermal")
    system = android(denied=denied)
    shell = AdbShell(connect(system=system).serial)
    target = load_target("pixel.yaml")
    check_system(shell, target, cores=True)
    folder = push(shell, build_programs(target, None, stand_in_ndk()[1]))
    facts = device_facts_by_shell(shell, target, folder)
    assert facts["machine"] == "aarch64" and {"cpu_part", "temperature_millicelsius"}.isdisjoint(facts)
