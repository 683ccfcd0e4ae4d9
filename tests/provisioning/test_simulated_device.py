"""A simulated device needs tools that are named when they are missing, and cannot be pushed to."""

import pytest
from typer.testing import CliRunner

from tvmfbnet.cli.main import app
from tvmfbnet.compiler.library import linker
from tvmfbnet.deploy.bench import require_sustainable
from tvmfbnet.deploy.runtimes.registry import rivals
from tvmfbnet.errors import RuntimeUnavailableError, UserError
from tvmfbnet.profiling.canary import observe
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.doctor import examine
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.provisioning.simulated_device import missing_for_simulation
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import load_target, resolve

# What is missing, and the package that has it.
NEEDED = {
    "llvm-mca": "llvm-19",
    "qemu-aarch64": "qemu-user",
    "cmake": "cmake",
    "make": "make",
    "c++": "g++",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any tool."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)


def test_every_missing_tool_is_named_with_what_to_install(bare):
    lines = missing_for_simulation(load_target("sim_a76"))
    assert len(lines) == len(NEEDED) and not any("\n" in line for line in lines)
    for line, (program, package) in zip(lines, NEEDED.items(), strict=True):
        assert program in line and f"apt-get install {package})" in line


def test_the_doctor_lists_them_all_and_stops(bare):
    checks = list(examine(load_target("sim_a76"), linker))
    assert [check.name for check in checks] == ["toolchain", *["simulator"] * (len(NEEDED) - 1)]
    assert not any(check.ok for check in checks)


def test_a_command_that_needs_the_device_names_them_in_one_line(bare):
    with pytest.raises(UserError, match=r"^6 problems: llvm-mc and llvm-mca .*; .*g\+\+-aarch64-linux-gnu\)") as caught:
        require_ready(load_target("sim_a76"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"aarch64-linux-gnu-g\+\+, which target sim_a76 links with"):
        require_ready(load_target("sim_a76"), runs=False)


@pytest.mark.parametrize(
    "words",
    [
        ("device", "push", "--target", "sim_a76", "--ssh", "pi@board"),
        ("device", "start", "--target", "sim_a76"),
        ("device", "logs", "--target", "sim_a55"),
    ],
)
def test_there_is_nothing_to_push_to(words):
    with pytest.raises(UserError, match=r"is simulated: there is no device to reach.*start it here themselves"):
        CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_no_other_runtime_is_timed_beside_it_and_no_sustained_latency():
    target = load_target("sim_a76")
    assert rivals(None, target) == []
    with pytest.raises(RuntimeUnavailableError, match="target sim_a76 is simulated"):
        rivals(("onnxruntime",), target)
    with pytest.raises(UserError, match="never throttles"):
        require_sustainable(target, 60.0)
    require_sustainable(target, 0.0)
    require_sustainable(load_target("host"), 60.0)


class Answers(RemoteWorker):
    """A worker whose device tells the given facts."""

    def __init__(self, facts):
        super().__init__(Endpoint("127.0.0.1", 1, "board"), "cpu", 10)
        self.facts, self.jobs = facts, []

    def persist(self, job, *arguments, seconds):
        from tvmfbnet.profiling.canary import Watched

        self.jobs.append(job)
        return Watched((1.0, 1.0, 1.0), 1.0, 1.0, self.facts)


@pytest.mark.parametrize(
    ("name", "facts", "source"),
    [
        ("sim_a76", {"model": "x", "simulated": "yes"}, "simulated"),
        ("sim_a76", {"model": "x"}, "simulated"),
        ("qemu_arm", {"model": "x", "simulated": "yes"}, "simulated"),  # a simulated device behind any other target
        ("qemu_arm", {"model": "x"}, "measured"),
    ],
)
def test_what_is_timed_is_simulated_if_the_target_or_its_device_says_so(name, facts, source, tmp_path):
    target, worker = resolve(load_target(name)), Answers(facts)
    timer = DeviceTimer(target, worker, None if target.is_simulated else tmp_path / "canary.so")
    timing = timer.steadily(tmp_path / "net.so", (1, 1))
    assert timer.source == source and timing.steady and timing.canary_ratio == 1.0
    assert (worker.jobs == [observe]) is target.is_simulated  # no canary runs there
