"""Whose energy is measured, and by what; tests/docs walks docs/how-to/energy.md, so measures parts and a package."""

import pytest
from test_energy import RaplMachine

from tvmfbnet.errors import UserError
from tvmfbnet.profiling.device_energy import require_source
from tvmfbnet.targets.definition import load_target, validate


def target_with(**changes):
    host = load_target("host")
    return validate(type(host), {**host.model_dump(mode="json"), **changes}, "target mine")


def test_only_a_machine_whose_sensor_is_read_has_an_energy(tmp_path):
    machine = RaplMachine(tmp_path)
    assert require_source(target_with(), "auto", tmp_path).name == "rapl"
    behind = target_with(transport={"kind": "tracker", "key": "phone"})
    with pytest.raises(UserError, match=r"reached through a tracker, .* give --energy 'command:...'"):
        require_source(behind, "auto", tmp_path)
    assert require_source(behind, "command:echo 1.5", tmp_path).name == "command:echo 1.5"
    with pytest.raises(UserError, match="sim_a76 is simulated, and a model takes no energy"):
        require_source(load_target("sim_a76"), "auto", tmp_path)
    emulated = target_with(transport={"kind": "local", "key": "m", "server": "native", "emulator": ["qemu-aarch64"]})
    with pytest.raises(UserError, match="is emulated: what this machine takes is not"):
        require_source(emulated, "auto", tmp_path)
    with pytest.raises(UserError, match="nothing that tells the energy"):
        require_source(target_with(), "auto", tmp_path / "nothing")
    (machine.zones[0] / "energy_uj").write_text("lots\n")
    with pytest.raises(UserError, match="holds no number"):
        require_source(target_with(), "auto", tmp_path)
