"""Only whole, undamaged programs are started on a device; a push replaces what a push left and nothing else."""

import pytest
from bundle_samples import fake_programs

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.pushing import prepare, push, require_pushed
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.targets.definition import load_target

HOST = load_target("host")


class CutOffError(Exception):
    """The connection ends."""


class Fragile(LocalShell):
    """A shell whose connection ends, or damages a file, at a moment of its own."""

    def __init__(self, folder, after_calls=99, damage=""):
        super().__init__(folder)
        self._left, self._damage = after_calls, damage

    def run(self, script, seconds=60.0):
        self._left -= 1
        if self._left < 0:
            raise CutOffError
        return super().run(script, seconds)

    def put(self, files, folder, now=None):
        self._left -= 1
        if self._left < 0:
            super().put(files[:1], folder)  # the connection ends after the first file
            raise CutOffError
        super().put(files, folder)
        for file in files:
            if file.name == self._damage:
                path = type(file)(folder) / file.name
                path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.fixture
def there(tmp_path):
    return tmp_path / "a device's folder"


def test_what_was_pushed_whole_can_be_started(tmp_path, there):
    shell = LocalShell(there)
    with pytest.raises(DeviceError, match="are not there, or only in part; push them with `tvmfbnet device push"):
        require_pushed(shell, HOST, str(there))
    assert push(shell, fake_programs(tmp_path / "one", liba_so="a")) == str(there)
    require_pushed(shell, HOST, str(there))
    assert (there / "liba.so").read_text() == "a" and (there / "tvmfbnet-server").stat().st_mode & 0o111
    assert not (there / ".incoming").exists() and not (there / "programs.old").exists()


def test_a_folder_of_the_device_that_cannot_be_written_is_found_out_before_a_build(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeviceError, match=r"this machine: .*file.*[Nn]ot a directory"):
        prepare(LocalShell(tmp_path / "file" / "board"))


@pytest.mark.parametrize("after_calls", [0, 1, 2])
def test_a_push_that_was_cut_off_changes_nothing_or_is_never_started(tmp_path, there, after_calls):
    push(LocalShell(there), fake_programs(tmp_path / "one", liba_so="old"))
    newer = fake_programs(tmp_path / "two", liba_so="new")
    with pytest.raises(CutOffError):
        push(Fragile(there, after_calls), newer)
    require_pushed(LocalShell(there), HOST, str(there))  # the old ones, whole
    assert (there / "liba.so").read_text() == "old"
    push(LocalShell(there), newer)
    assert (there / "liba.so").read_text() == "new" and not (there / ".incoming").exists()


def test_a_device_that_ends_while_files_change_places_is_pushed_to_again(tmp_path, there):
    push(LocalShell(there), fake_programs(tmp_path / "one", liba_so="old", libgone_so="old"))
    (there / "programs.sums").rename(there / "programs.old")  # as it is in the middle of that
    (there / "liba.so").unlink()
    with pytest.raises(DeviceError, match="only in part"):
        require_pushed(LocalShell(there), HOST, str(there))
    push(LocalShell(there), fake_programs(tmp_path / "two", liba_so="new"))
    require_pushed(LocalShell(there), HOST, str(there))
    assert not (there / "libgone.so").exists()


@pytest.mark.parametrize("sums", [True, False])
def test_what_arrives_damaged_never_takes_the_old_ones_place(tmp_path, there, sums, monkeypatch):
    push(LocalShell(there), fake_programs(tmp_path / "one", liba_so="old"))
    with pytest.raises(DeviceError, match="what arrived is not what was sent; push again"):
        push(Fragile(there, damage="liba.so"), fake_programs(tmp_path / "two", liba_so="new"))
    require_pushed(LocalShell(there), HOST, str(there))
    (there / "liba.so").write_text("olx" if sums else "")
    with pytest.raises(DeviceError, match="were changed or damaged; push them"):
        require_pushed(LocalShell(there), HOST, str(there))


def test_a_push_removes_what_earlier_ones_left_and_no_other_file(tmp_path, there):
    push(LocalShell(there), fake_programs(tmp_path / "one", libold_so="old"))
    (there / "mine.txt").write_text("mine")
    (tmp_path / "outside").write_text("mine")
    with (there / "programs.sums").open("a") as stream:
        stream.write(f"{'0' * 64}  ../outside\n{'0' * 64}  .profile\n")
    (there / ".profile").write_text("mine")
    push(LocalShell(there), fake_programs(tmp_path / "two", libnew_so="new"))
    assert not (there / "libold.so").exists() and (there / "libnew.so").exists()
    assert {path.read_text() for path in (there / "mine.txt", there / ".profile", tmp_path / "outside")} == {"mine"}


def test_programs_without_opencl_do_not_start_for_an_opencl_target(tmp_path, there):
    pocl = load_target("pocl")
    push(LocalShell(there), fake_programs(tmp_path / "one"))
    with pytest.raises(DeviceError, match="is without OpenCL; push them with `tvmfbnet device push --target pocl"):
        require_pushed(LocalShell(there), pocl, str(there))
    push(LocalShell(there), fake_programs(tmp_path / "two", libtvm_runtime_opencl_so="x"))
    require_pushed(LocalShell(there), pocl, str(there))
