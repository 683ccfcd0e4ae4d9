"""Cores are counted as this process may use them, and lists of cores are read strictly."""

import os
import subprocess
import sys

import pytest

from tvmfbnet.machine import _quota, allowed_cores, core_numbers, describe_machine, format_cores, parse_cores


def test_only_the_cores_that_this_process_may_use_are_counted():
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); from tvmfbnet.machine import *; "
    code += "print(allowed_cores(), core_numbers())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=1) == ["1", f"({core},)\n"]
    assert 1 <= allowed_cores() <= len(core_numbers()) == len(os.sched_getaffinity(0))


def test_a_containers_share_of_time_counts_as_cores(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/container\n")
    inner = tmp_path / "fs" / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert _quota(tmp_path / "fs", own) is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert _quota(tmp_path / "fs", own) == 1.5
    old = tmp_path / "fs" / "cpu,cpuacct" / "box"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("50000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    own.write_text("3:cpu,cpuacct:/box\n2:memory:/box\n")
    assert _quota(tmp_path / "fs", own) == 0.5
    assert _quota(tmp_path / "nowhere", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "cores"), [("", ()), ("7", (7,)), ("0,4-7", (0, 4, 5, 6, 7)), ("2,1", (2, 1)), ("3-3", (3,))]
)
def test_a_list_of_cores_is_read(text, cores):
    assert parse_cores(text) == cores


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("7-4", "counts down; write 4-7"),
        ("4,4", "core 4 is named twice"),
        ("0-3,2", "core 2 is named twice"),
        ("a", "'a' is not a core"),
        ("1,", "'' is not a core"),
        ("1-", "'1-' is not a core"),
        ("٤", "is not a core"),
        ("0-99999999", "is not a core"),
        ("0-5000", "more than any machine has"),
    ],
)
def test_a_wrong_list_of_cores_is_refused_with_the_reason(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_cores(text)


def test_cores_are_shown_as_a_person_writes_them():
    assert format_cores((5, 0, 4, 2)) == "0,2,4-5"


def test_a_machine_is_described_by_what_it_reported_alone():
    facts = {"model": "Raspberry Pi 4", "machine": "aarch64", "cores": "4", "system": "Linux", "kernel": "6.1"}
    assert describe_machine(facts) == "Raspberry Pi 4, aarch64, 4 cores, Linux 6.1"
    assert describe_machine({"cpu_part": "0xd08", "system": "Linux"}) == "0xd08, Linux"
    assert describe_machine({}) == ""
