"""The command line as a user meets it, in a process of its own: light, and one clear line for bad input."""

import json
import resource
import socket
import subprocess
import sys

import pytest

from tvmfbnet.cli import main as main_module

HEAVY = ("torch", "tvm", "numpy", "pydantic", "xgboost", "matplotlib", "scipy", "timm", "onnx")
MINI_ARCH = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"


def tvmfbnet(*arguments, cwd=None):
    command = [sys.executable, "-m", "tvmfbnet.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def assert_one_line_and_code_2(result, *parts):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from tvmfbnet.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "[]"
    assert "search" in result.stdout


def test_help_takes_little_of_the_processor():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert tvmfbnet("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Time of the processor, not of the clock, and the best of a few: other work may share the machine.
    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("command", ["spaces", "arch", "targets", "tracker", "devices", "latency", "search", "train"])
def test_every_command_has_help(command):
    result = tvmfbnet(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_an_unknown_target_is_one_line():
    assert_one_line_and_code_2(tvmfbnet("targets", "show", "hosst"), "'hosst'", "did you mean host?")


def test_an_unknown_space_is_one_line():
    assert_one_line_and_code_2(tvmfbnet("spaces", "show", "nowhere"), "'nowhere'", "fbnet_mini")


@pytest.mark.parametrize(
    ("arch", "part"),
    [
        ("fbnet_z", "fbnet_z"),
        (MINI_ARCH.replace("k5_e3", "k9_e9"), "k9_e9"),
        (MINI_ARCH + ",k3_e1", "3"),
        (MINI_ARCH + "/k3_e1", "stage"),
    ],
    ids=["unknown name", "unknown block", "a stage too long", "a stage too many"],
)
def test_a_wrong_arch_is_one_line(arch, part):
    assert_one_line_and_code_2(tvmfbnet("arch", "describe", arch, "--space", "fbnet_mini"), part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("name: [unclosed\n", "not valid YAML"),
        ("- a list\n", "mapping"),
        ("name: x\nbogus: 1\n", "bogus"),
    ],
    ids=["broken", "no mapping", "wrong fields"],
)
def test_a_malformed_target_file_is_one_line(tmp_path, content, part):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert_one_line_and_code_2(tvmfbnet("targets", "show", str(file)), "mine.yaml", part)


def test_a_missing_target_file_is_one_line(tmp_path):
    assert_one_line_and_code_2(tvmfbnet("targets", "show", "absent.yaml", cwd=tmp_path), "absent.yaml")


def test_a_tracker_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert_one_line_and_code_2(tvmfbnet("tracker", "--port", port), port, "in use")


def test_devices_without_a_tracker_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert_one_line_and_code_2(
        tvmfbnet("devices", "--tracker", f"127.0.0.1:{port}"), "no tracker at", "tvmfbnet tracker"
    )


def test_a_wrong_tracker_address_is_one_line():
    assert_one_line_and_code_2(tvmfbnet("devices", "--tracker", "nowhere"), "host:port")


@pytest.mark.parametrize(
    "arguments",
    [("train", "--no-such-flag"), ("no-such-command",), ("tracker", "--port", "70000"), ("spaces", "show")],
    ids=["unknown option", "unknown command", "value out of range", "missing argument"],
)
def test_a_usage_error_is_one_line(arguments):
    assert_one_line_and_code_2(tvmfbnet(*arguments))


def test_targets_are_shown_as_json_and_nothing_else():
    listed = json.loads(tvmfbnet("targets", "list", "--json").stdout)
    assert {"host", "arm_cpu", "mali", "apple_cpu", "apple_gpu"} <= {item["name"] for item in listed}
    assert json.loads(tvmfbnet("targets", "show", "host", "--json").stdout)["transport"]["kind"] == "local"


def test_a_target_that_cannot_be_reached_fails_its_check(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "far.yaml").write_text(
        "name: far\ndescription: x\nexercised: false\ntvm: {kind: llvm}\n"
        f"toolchain: {{command: no-such-compiler}}\ntransport: {{key: far, port: {port}}}\n"
    )
    result = tvmfbnet("targets", "check", "far.yaml", "--json", cwd=tmp_path)
    assert result.returncode == 2
    report = json.loads(result.stdout)
    assert [(check["name"], check["ok"]) for check in report["checks"]] == [("toolchain", False), ("tracker", False)]


@pytest.mark.slow
@pytest.mark.rpc
def test_the_host_passes_its_check():
    result = tvmfbnet("targets", "check", "host")
    assert result.returncode == 0, result.stdout
    named = [line.split()[1] for line in result.stdout.splitlines()]
    assert [name for name in named if name in ("toolchain:", "tracker:", "key:", "connect:", "canary:")] == [
        "toolchain:",
        "tracker:",
        "key:",
        "connect:",
        "canary:",
    ]


@pytest.mark.slow
@pytest.mark.rpc
def test_a_tracker_answers_and_ends_when_asked():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tvmfbnet.cli.main", "tracker", "--port", str(port)]
    tracker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert "tracker at" in tracker.stderr.readline()
        listed = json.loads(tvmfbnet("devices", "--tracker", f"127.0.0.1:{port}", "--json").stdout)
        assert listed["servers"] == []
    finally:
        tracker.terminate()
        tracker.wait(timeout=30)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_python_m_tvmfbnet_is_the_same_command_line():
    command = [sys.executable, "-m", "tvmfbnet", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("tvmfbnet ")


def long_table(width):
    arch = "/".join(["k3_e6_se_hswish,k5_e6_se_hswish,skip"] * 7)
    code = (
        f"from tvmfbnet.cli.output import print_table\nprint_table('', ('arch', 'what'), [('{arch}', 'one two three')])"
    )
    command = [sys.executable, "-c", code]
    if width is None:
        return arch, subprocess.run(command, capture_output=True, text=True, check=True).stdout
    script = f"import pty, os, sys\nos.environ['COLUMNS'] = '{width}'\npty.spawn({command!r})"
    return arch, subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_piped_table_has_no_width():
    arch, shown = long_table(None)
    assert any(arch in line and "one two three" in line for line in shown.splitlines())


def test_an_arch_is_never_cut_by_a_narrow_terminal():
    arch, shown = long_table(60)
    assert any(arch in line for line in shown.splitlines()) and "one two three" not in shown


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5000"}),
        ({"GOMP_SPINCOUNT": "0"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_torchs_threads_spin_for_a_bounded_time_unless_the_environment_says_how_they_wait(given, then):
    environment = dict(given)
    main_module._bound_spinning(environment)
    assert environment == then
