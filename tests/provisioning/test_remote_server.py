"""What earlier starts left is ended by the next one, and nothing that still serves."""

import subprocess
from dataclasses import asdict

import pytest

from tvmfbnet.errors import DeviceError
from tvmfbnet.files import write_json
from tvmfbnet.provisioning.remote_server import Started, _forget_dead, silent_end, stop
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.targets.definition import load_target

HOST = load_target("host")


class Recorder(LocalShell):
    """This machine, which says what tunnels it was told to close."""

    def __init__(self, folder):
        super().__init__(folder)
        self.closed = []

    def close_tunnel(self, tunnel):
        self.closed.append(tunnel.local_port)


@pytest.fixture
def started(tmp_path):
    """Writes the record of a server; gives its folder here."""

    def save(name, folder, port, where=LocalShell.where):
        state = tmp_path / "started" / name
        write_json(state / "state.json", asdict(Started(str(folder), 9090, port, 9190, "127.0.0.1:9190", where)))
        return state

    return save


@pytest.fixture
def serving(tmp_path):
    """A folder in which a process runs that the pid file names and that goes by the server's name."""
    folder = tmp_path / "serving"
    folder.mkdir()
    (folder / "tvmfbnet-server").symlink_to("/bin/sleep")
    process = subprocess.Popen([folder / "tvmfbnet-server", "600"])
    (folder / "server.pid").write_text(f"{process.pid}\n")
    yield folder
    process.kill()
    process.wait()


def test_a_start_ends_the_tunnels_of_this_devices_dead_servers_and_no_others(tmp_path, started, serving):
    shell = Recorder(tmp_path / "device")
    own, dead = started("a", tmp_path / "gone", 1001), started("b", tmp_path / "gone", 1002)
    alive = started("c", serving, 1003)
    other = started("d", tmp_path / "gone", 1004, where="device me@elsewhere")
    (tmp_path / "started" / "e").mkdir()
    (tmp_path / "started" / "e" / "state.json").write_text("{damaged")
    _forget_dead(shell, HOST, own)
    assert sorted(shell.closed) == [1001, 1002]
    assert not (own / "state.json").exists() and not (dead / "state.json").exists()
    assert (alive / "state.json").exists() and (other / "state.json").exists()


def test_a_start_of_a_target_that_serves_from_another_folder_is_refused(tmp_path, started, serving):
    shell = Recorder(tmp_path / "device")
    state = started("a", serving, 1001)
    with pytest.raises(DeviceError, match=f"runs already on this machine, in folder {serving}; end it with"):
        _forget_dead(shell, HOST, state)
    assert not shell.closed
    assert stop(shell, state, str(serving))
    assert shell.closed == [1001] and not (state / "state.json").exists()


def test_states_of_older_versions_and_damaged_ones_do_not_stop_a_stop(tmp_path):
    shell, state = Recorder(tmp_path / "device"), tmp_path / "started" / "a"
    write_json(state / "state.json", {"folder": "x", "server_port": 1, "local_port": 1001, "tracker_port": 2})
    assert not stop(shell, state)
    assert shell.closed == [1001]
    write_json(state / "state.json", {"folder": "x", "server_port": "many"})
    assert not stop(shell, state)
    assert shell.closed == [1001] and not (state / "state.json").exists()


def test_a_server_that_was_killed_is_told_apart_from_one_that_says_why_it_ended(tmp_path, serving):
    shell = LocalShell(serving)
    assert silent_end(shell, HOST) == "", "it runs"
    (serving / "server.pid").write_text("999999999\n")
    (serving / "server.log").write_text("2026-11-27T18:39:30Z [93] info session of 127.0.0.1:5 begins\n")
    said = silent_end(shell, HOST)
    assert "the system killed it (signal 9), as Android does when memory is short; start it again with" in said
    assert "`tvmfbnet device start --target host`" in said and len(said.splitlines()) == 1
    for last in ("[93] info ending on signal 15", "[93] info standard input closed; ending", "error: cannot listen"):
        (serving / "server.log").write_text(f"2026-11-27T18:39:30Z {last}\n")
        assert silent_end(shell, HOST) == ""
    assert silent_end(LocalShell(tmp_path / "never"), HOST) == ""
