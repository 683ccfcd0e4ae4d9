"""How a device was reached is recorded, so that advice names the whole command."""

import shlex

import pytest

from tvmfbnet.provisioning.ways import device_command, save_connection
from tvmfbnet.targets.definition import load_target


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_way_that_was_used_last_is_advised_and_quoted():
    target, way = load_target("rpi4"), ["--ssh", "pi@board", "--ssh-option", "ProxyCommand=nc %h %p", "--folder", "a b"]
    assert device_command("start", target) == "`tvmfbnet device start --ssh USER@HOST --target rpi4`"
    save_connection(target, ["--ssh", "pi@earlier"])
    save_connection(target, way)
    words = shlex.split(device_command("logs", target).strip("`"))
    assert words == ["tvmfbnet", "device", "logs", *way, "--target", "rpi4"]


@pytest.mark.parametrize("content", ["", "{}", '["--ssh", 1]', "[" * 5000])
def test_a_damaged_memory_is_none(tmp_path, content):
    (tmp_path / "tvmfbnet" / "ways").mkdir(parents=True)
    (tmp_path / "tvmfbnet" / "ways" / "rpi4.json").write_text(content)
    assert device_command("stop", load_target("rpi4")) == "`tvmfbnet device stop --ssh USER@HOST --target rpi4`"


def test_phones_are_reached_by_adb_and_local_targets_by_nothing():
    assert device_command("start", load_target("pixel")) == "`tvmfbnet device start --adb --target pixel`"
    assert device_command("logs", load_target("host")) == "`tvmfbnet device logs --target host`"
