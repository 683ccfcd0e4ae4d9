"""Pushes the device programs to a device such that only complete, undamaged ones are ever started.

Files are uploaded to a folder beside the old ones, verified there, and then replace them. Their checksum list is
installed last, and a folder without one is not startable: an interrupted push leaves none.
"""

from __future__ import annotations

from shlex import quote

from tvmfbnet.advice import command, target_as_given
from tvmfbnet.errors import DeviceError
from tvmfbnet.files import checksum, write_text
from tvmfbnet.progress import step
from tvmfbnet.provisioning.programs import RUNNER, SERVER, Programs
from tvmfbnet.provisioning.shell_base import Shell
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import Target

# On the device: checksums in `sha256sum` format; files of an earlier push, to be removed; the upload folder.
_SUMS, _OLD, _INCOMING = "programs.sums", "programs.old", ".incoming"
_OPENCL = "libtvm_runtime_opencl.so"
_HASH_LETTERS = 64


def push(shell: Shell, programs: Programs, folder: str = "") -> str:
    """Copies the programs to the device and makes them executable; returns the folder.

    Raises:
        DeviceError: copying failed, or the received files differ from those sent.
    """
    folder = prepare(shell, folder)
    with (
        step(f"pushing {len(programs.files)} files, {programs.bytes / 1e6:.1f} MB, to {shell.where}") as now,
        scratch_folder() as temporary,
    ):
        sums = temporary / _SUMS
        write_text(sums, "".join(f"{checksum(path)}  {path.name}\n" for path in programs.files))
        shell.put([*programs.files, sums], f"{folder}/{_INCOMING}", now)
    with step(f"checking what arrived in folder {folder}"):
        shell.run(_install_script(folder, programs))
    return folder


def prepare(shell: Shell, folder: str = "") -> str:
    """Creates an empty upload folder for a push, and returns the destination folder.

    Raises:
        DeviceError: the device cannot be reached, or the folder cannot be created or written there.
    """
    folder = shell.folder(folder)
    incoming = quote(f"{folder}/{_INCOMING}")
    shell.run(f"rm -rf {incoming} && mkdir -p {incoming} && : >{incoming}/.try && rm {incoming}/.try")
    return folder


def _install_script(folder: str, programs: Programs) -> str:
    """A script that verifies the upload, then replaces the files of an earlier push; removes nothing else."""
    files = programs.files
    sizes = "\n".join(f"arrived {quote(path.name)} {path.stat().st_size}" for path in files)
    moves = "\n".join(f"mv -f {_INCOMING}/{quote(path.name)} {quote(path.name)}" for path in files)
    return f"""set -e
cd {quote(folder)}
arrived() {{
  if [ "$(wc -c <{_INCOMING}/"$1")" -ne "$2" ]; then echo "$1 did not arrive whole; push again" >&2; exit 1; fi
}}
{sizes}
if command -v sha256sum >/dev/null 2>&1 && ! (cd {_INCOMING} && sha256sum -c {_SUMS} >/dev/null 2>&1); then
  echo "what arrived is not what was sent; push again" >&2; exit 1
fi
if [ -f {_SUMS} ]; then cat {_SUMS} >>{_OLD}; fi
rm -f {_SUMS}
if [ -f {_OLD} ]; then
  while read -r sum name; do
    case $name in */*|.*|"") ;; *) rm -f "./$name";; esac
  done <{_OLD}
fi
{moves}
chmod 755 {SERVER} {RUNNER}
mv -f {_INCOMING}/{_SUMS} {_SUMS}
rm -f {_OLD}
rmdir {_INCOMING}"""


def push_command(shell: Shell, target: Target, folder: str) -> str:
    """The command in back quotes that pushes a target's programs to a folder of a device."""
    return _command("push", shell, target, folder)


def start_command(shell: Shell, target: Target, folder: str) -> str:
    """The command in back quotes that starts the server pushed to a folder of a device."""
    return _command("start", shell, target, folder)


def stop_command(shell: Shell, target: Target, folder: str) -> str:
    """The command in back quotes that stops the server running in a folder of a device."""
    return _command("stop", shell, target, folder)


def _command(action: str, shell: Shell, target: Target, folder: str) -> str:
    given = "" if folder == shell.folder("") else folder
    return command(f"device {action}", *shell.words, target=target_as_given(target.name), folder=given)


def require_pushed(shell: Shell, target: Target, folder: str) -> None:
    """Refuses a folder of the device without a complete, unchanged push of the programs that the target needs.

    Raises:
        DeviceError: says what to do.
    """
    script = f"""cd {quote(folder)} 2>/dev/null && [ -f {_SUMS} ] || {{ echo none; exit 0; }}
while read -r sum name; do [ -s "$name" ] || {{ echo damaged; exit 0; }}; done <{_SUMS}
if command -v sha256sum >/dev/null 2>&1; then sha256sum -c {_SUMS} >/dev/null 2>&1 || {{ echo damaged; exit 0; }}; fi
echo whole
cat {_SUMS}"""
    state, *sums = shell.run(script).splitlines() or ["none"]
    names = {line[_HASH_LETTERS:].strip() for line in sums}
    again = f"push them with {push_command(shell, target, folder)}"
    if state != "whole":
        what = "were changed or damaged" if state == "damaged" else "are not there, or only in part"
        raise DeviceError(f"{shell.where}: the device programs in folder {folder} {what}; {again}")
    if target.device == "opencl" and _OPENCL not in names:
        raise DeviceError(f"{shell.where}: what was pushed to folder {folder} is without OpenCL; {again}")
