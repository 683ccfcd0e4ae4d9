"""Simulated targets: what their files mean, what they refuse, and that a changed model is another device."""

from pathlib import Path

import pytest
import yaml

from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.pipeline.run import _target_key
from tvmfbnet.simulation import version
from tvmfbnet.simulation.cores import list_cores, load_core
from tvmfbnet.targets import simulated
from tvmfbnet.targets.definition import Target, in_dtype, load_target, resolve, target_key

SIMULATED = ["sim_a53", "sim_a55", "sim_a72", "sim_a75", "sim_a76", "sim_x1"]
SMALL = {
    "name": "mine",
    "description": "mine",
    "exercised": False,
    "tvm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu"},
    "simulation": {"core": "a76"},
}


def made(**fields):
    return validate(Target, {**SMALL, **fields}, "mine.yaml")


@pytest.mark.parametrize("name", SIMULATED)
def test_a_shipped_simulated_target_compiles_for_its_core_and_is_timed_once(name):
    target = load_target(name)
    core = load_core(target.simulation.core)
    assert target.is_simulated and core.name == name.removeprefix("sim_") and core.name in list_cores()
    assert resolve(target).tvm["mcpu"] == core.codegen_cpu and resolve(target).is_simulated
    timing = target.timing
    assert (timing.repeats, timing.chain_runs, timing.visits, timing.trial_repeats) == (1, 1, 1, 1)
    assert (target.transport.kind, target.transport.server, target.transport.key) == ("local", "native", name)


def test_a_short_file_is_enough_and_what_it_says_goes_before():
    target = made(timing={"chain_rounds": 5})
    assert (target.timing.chain_rounds, target.timing.repeats, target.transport.key) == (5, 1, "mine")
    assert resolve(made(tvm={**SMALL["tvm"], "mcpu": "cortex-a53"})).tvm["mcpu"] == "cortex-a53"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"simulation": {"core": "a99"}}, r"simulation.core: unknown core 'a99': .*there are .*a53.*a76.*x1"),
        ({"simulation": {"core": "a76", "speed": 2}}, "simulation.speed: unknown name"),
        ({"threads": 2}, "threads is 2, but the clock of a simulated device models one core"),
        ({"cores": "0"}, "cores is 0, but a simulated device has one core"),
        ({"dtype": "float16"}, "dtype is float16, but simulated devices compute in float32 and int8 alone"),
        ({"tvm": {"kind": "llvm", "mcpu": "native"}}, "the cores that are simulated are ARM's"),
        ({"tvm": {"kind": "llvm", "mtriple": "aarch64-linux-android"}}, "the cores that are simulated are ARM's"),
        ({"transport": {"kind": "tracker", "key": "mine"}}, "a simulated device is started here"),
        ({"transport": {"kind": "local", "key": "mine", "server": "native", "emulator": ["x"]}}, "no emulator"),
    ],
)
def test_what_a_simulated_device_cannot_do_is_refused_in_one_line(fields, problem):
    with pytest.raises(UserError, match=problem) as caught:
        made(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["repeats", "min_repeat_ms", "chain_runs", "trial_min_ms"])
def test_other_targets_are_never_timed_just_once(name):
    host = load_target("host").model_dump(mode="json")
    with pytest.raises(ConfigError, match=f"timing.{name}: must be at least [13], but on simulated devices"):
        validate(Target, {**host, "timing": {**host["timing"], name: 0 if name.endswith("ms") else 1}}, "host.yaml")


def test_the_dtype_may_be_int8():
    assert in_dtype(load_target("sim_a76"), "int8").dtype == "int8"
    with pytest.raises(UserError, match="float32 and int8 alone"):
        load_target("sim_a76,dtype=float16")


def test_a_changed_model_is_another_device_and_another_run(tmp_path, monkeypatch):
    content = yaml.safe_load((Path(simulated.__file__).parents[1] / "simulation" / "cores" / "a76.yaml").read_text())

    def of_core(**changes):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return made(simulation={"core": str(path)})

    plain, same = of_core(), of_core(description="Cortex-A76, told in other words")
    faster, quicker = of_core(frequency_ghz=2.5), of_core(memory={**content["memory"], "latency_ns": 90})
    for key in (lambda target: target_key(resolve(target)), _target_key, lambda target: model(target, "19.1.7")):
        assert key(plain) == key(of_core())
        assert len({key(target) for target in (plain, faster, quicker)}) == 3
    assert target_key(resolve(plain)) == target_key(resolve(same))
    assert model(plain, "19.1.7") != model(plain, "20.1.0"), "LLVM's schedules are a part of the model"
    before = target_key(resolve(plain)), _target_key(plain), model(plain, "19.1.7")
    monkeypatch.setattr(simulated, "simulator_version", lambda: "another")
    after = target_key(resolve(plain)), _target_key(plain), model(plain, "19.1.7")
    assert all(one != other for one, other in zip(before, after, strict=True))


def model(target, llvm):
    return simulated.model_of(simulated.core_of(target), llvm)


def test_the_device_model_names_core_product_and_version():
    assert model(load_target("sim_a76"), "19.1.7").startswith("simulated Cortex-A76 (Raspberry Pi 5), model ")


def test_the_simulators_version_covers_its_sources(tmp_path, monkeypatch):
    folder = tmp_path / "device" / "simulator"
    folder.mkdir(parents=True)
    (folder / "cache.cc").write_text("int ways = 4;\n")
    monkeypatch.setattr(version, "source_folder", lambda: tmp_path)
    first = version.simulator_version.__wrapped__()
    assert first == version.simulator_version.__wrapped__()
    (folder / "cache.cc").write_text("int ways = 8;\n")
    assert version.simulator_version.__wrapped__() != first


def test_other_targets_keep_the_keys_that_they_had():
    keys = {"rpi4": "8b6e015c39dd7d2f", "arm_cpu": "2a20dba612fececb", "mali": "52fda1bcfba45bdf"}
    assert {name: target_key(resolve(load_target(name))) for name in keys} == keys
    runs = {"host": "3f08077efa6028a3", "rpi4": "fc8976f179a9ed7c", "mali": "b3a4f81c2829bba7"}
    assert {name: _target_key(load_target(name)) for name in runs} == runs


@pytest.mark.parametrize(("name", "board"), [("sim_a76", "rpi5"), ("sim_a72", "rpi4")])
def test_a_package_of_a_simulated_board_fits_the_board(name, board):
    assert resolve(load_target(name)).tvm == resolve(load_target(board)).tvm
    assert target_key(resolve(load_target(name))) != target_key(resolve(load_target(board)))
