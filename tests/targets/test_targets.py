"""Shipped targets are valid and honest; malformed ones are refused with every problem at once."""

import datetime
import time

import pytest

from tvmfbnet.compiler.library import linker
from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.machine import core_numbers, format_cores
from tvmfbnet.profiling.doctor import examine
from tvmfbnet.targets.definition import Target, list_targets, load_target, require_cores, target_key

SHIPPED = [
    *("adreno", "apple_cpu", "apple_gpu", "arm_cpu", "host", "mali", "pixel", "pocl", "qemu_arm", "rpi4", "rpi5"),
    *("sim_a53", "sim_a55", "sim_a72", "sim_a75", "sim_a76", "sim_x1"),
]
EXERCISED = {"host", "pocl", "qemu_arm", *(name for name in SHIPPED if name.startswith("sim_"))}


@pytest.fixture(autouse=True)
def outside_the_checkout(tmp_path, monkeypatch):
    """Targets are found without a ./targets folder."""
    monkeypatch.chdir(tmp_path)


def test_the_shipped_targets_are_found_anywhere():
    assert list_targets() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_target_is_valid_and_named_after_its_file(name):
    target = load_target(name)
    assert isinstance(target, Target)
    assert target.name == target.transport.key == name


@pytest.mark.parametrize("name", SHIPPED)
def test_only_what_runs_on_this_machine_claims_to_be_exercised(name):
    assert load_target(name).exercised is (name in EXERCISED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_stay_on_loopback(name):
    assert load_target(name).transport.host == "127.0.0.1"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_tvm_accepts_a_shipped_target(name):
    pytest.importorskip("tvm")
    from tvmfbnet.targets.definition import resolve

    target = resolve(load_target(name))
    assert target.for_tvm().kind.name == target.tvm["kind"]


def test_a_target_of_the_users_folder_goes_before_the_shipped_one(tmp_path):
    folder = tmp_path / "targets"
    folder.mkdir()
    text = "name: host\ndescription: mine\nexercised: false\ntvm: {kind: llvm}\ntransport: {kind: local, key: mine}\n"
    (folder / "host.yaml").write_text(text)
    assert load_target("host").description == "mine"


def test_an_unknown_target_says_what_there_is_and_the_closest():
    with pytest.raises(UserError, match=r"did you mean mali\?.*arm_cpu"):
        load_target("malli")


def test_every_problem_of_a_target_file_is_reported_at_once(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "name: bad\ndescription: x\nexercised: maybe\ntvm: {kind: llvm}\ntransport: {key: k, port: 0}\nbogus: 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_target(str(file))
    assert len(caught.value.problems) == 3
    for place in ("exercised", "transport.port", "bogus"):
        assert place in str(caught.value)


def test_a_device_that_does_not_fit_the_tvm_kind_is_refused(tmp_path):
    file = tmp_path / "bad.yaml"
    text = "name: bad\ndescription: x\nexercised: false\ndevice: metal\ntvm: {kind: llvm}\ntransport: {key: k}\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match="needs metal"):
        load_target(str(file))


def test_a_targets_key_covers_what_changes_code_or_time_and_nothing_else():
    target = load_target("arm_cpu")

    def changed(**changes):
        return target.model_copy(update=changes)

    same = [
        changed(description="another text", exercised=not target.exercised),
        changed(timeouts=target.timeouts.model_copy(update={"trial": 77.0})),
        changed(transport=target.transport.model_copy(update={"host": "10.0.0.9", "port": 9999})),
        changed(tvm=dict(reversed(list(target.tvm.items())))),
    ]
    assert {target_key(other) for other in same} == {target_key(target)}
    others = [
        changed(tvm={**target.tvm, "mcpu": "cortex-a53"}),
        changed(threads=target.threads + 1),
        changed(cores="0-1"),
        changed(tvm={**target.tvm, "kind": "c"}),
    ]
    assert len({target_key(other) for other in (target, *others)}) == len(others) + 1
    assert target_key(changed(cores="0-2,5")) == target_key(changed(cores="0,1,2,5"))


def changed(**fields):
    """A target with some fields changed, checked as a file is; a recipe's or a program's does not come from YAML."""
    return validate(Target, {**load_target("host").model_dump(mode="json"), **fields}, "changed.yaml")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cores": "7-4"}, "cores: the range 7-4 counts down; write 4-7"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16' is not supported: .*float32 or float16 or int8 only"),
        ({"cores": "1,1"}, "cores: core 1 is named twice"),
        ({"cores": "0-99999999"}, "cores: .* is not a core"),
        ({"cores": "0-3,2"}, "cores: core 2 is named twice"),
        ({"cores": "1,"}, "cores: .* is not a core"),
        ({"cores": "٤"}, "cores: .* is not a core"),
        ({"cores": "3", "threads": 4}, "threads is 4, but cores names 1"),
        ({"threads": 10**6}, "threads: .*1024"),
        ({"tvm": {"kind": "llvm", "list": [[[[[[[1]]]]]]]}}, "tvm: nested more than 6 deep"),
        ({"tvm": {"kind": "llvm", "list": list(range(1000))}}, "tvm: holds more than 256 values"),
        ({"tvm": {"kind": "llvm", "text": "x" * 5000}}, "tvm: holds a text of 5000 characters"),
        ({"tvm": {"kind": "llvm", "number": float("inf")}}, "tvm: holds a number that is not finite"),
        ({"tvm": {"kind": "llvm", "number": 2**70}}, "tvm: holds a number that is not finite or has more"),
        ({"tvm": {"kind": "llvm", 1: 2}}, "tvm: holds a key that is not text"),
        ({"tvm": {"kind": "llvm", "day": datetime.date(2024, 1, 1)}}, "tvm: holds a date"),
    ],
)
def test_values_that_no_device_has_are_refused_in_one_line(fields, problem):
    with pytest.raises(UserError, match=problem) as caught:
        changed(**fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_cycle_and_a_bomb_of_aliases_are_refused_at_once():
    cycle, bomb = [], ["x"] * 9
    cycle.append(cycle)
    for _ in range(8):
        bomb = [bomb] * 9
    for value in (cycle, bomb, {"deep": [bomb[0][0][0]]}, [bomb[0][0][0][0][0]] * 9):
        began = time.monotonic()
        with pytest.raises(UserError, match=r"tvm: (nested|holds) more than"):
            changed(tvm={"kind": "llvm", "x": value})
        assert time.monotonic() - began < 1.0


def test_cores_that_this_machine_does_not_have_are_named_with_those_it_has():
    target = changed(cores="1000")
    here = format_cores(core_numbers())
    with pytest.raises(UserError, match=f"1000 is not here; this machine lets us use {here}"):
        require_cores(target)
    require_cores(changed(cores=str(core_numbers()[0])))
    checks = list(examine(target, linker))
    assert [check.name for check in checks] == ["toolchain", "cores"] and not checks[-1].ok
