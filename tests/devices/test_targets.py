"""Shipped targets are valid and honest; malformed ones are refused with every problem at once."""

import pytest

from tvmfbnet.devices.target import Target, list_targets, load_target, target_key
from tvmfbnet.errors import ConfigError, UserError

SHIPPED = ["adreno", "apple_cpu", "apple_gpu", "arm_cpu", "host", "mali", "pixel", "pocl", "qemu_arm", "rpi4", "rpi5"]
EXERCISED = {"host", "pocl", "qemu_arm"}


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
    tvm = pytest.importorskip("tvm")
    from tvmfbnet.devices.target import resolve_native

    target = resolve_native(load_target(name))
    assert tvm.target.Target(target.tvm).kind.name == target.tvm["kind"]


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
