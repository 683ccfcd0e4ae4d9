"""The shell of an Android phone, over the system's own adb, each call with a timeout."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote

from tvmfbnet.errors import DeviceError
from tvmfbnet.progress import Reporter
from tvmfbnet.provisioning.phones import choose_phone, listed_phones
from tvmfbnet.provisioning.remote_script import for_any_shell
from tvmfbnet.provisioning.shell_base import RUN_SECONDS, Done, Shell, Tunnel, call, failure, run_program, show_files
from tvmfbnet.rpc.addresses import join_address, split_address
from tvmfbnet.tools import need_program

_COPY_SECONDS = 600.0
_LOOPBACK = "127.0.0.1"
_FULL = os.strerror(errno.ENOSPC)


class AdbShell(Shell):
    """An Android phone, by its serial number, else by ``$ANDROID_SERIAL``, else the only one that is connected."""

    default_folder = "/data/local/tmp/tvmfbnet"

    def __init__(self, serial: str = "") -> None:
        adb = need_program("adb", "reaches the phone")
        named_by = "--serial" if serial else "ANDROID_SERIAL"
        phones = listed_phones(call([adb, "devices"], RUN_SECONDS, "adb"))

        def hardware_serial(name: str) -> str:
            return call([adb, "-s", name, "shell", "getprop ro.serialno"], RUN_SECONDS, f"phone {name}").strip()

        self._serial = choose_phone(phones, serial or os.environ.get("ANDROID_SERIAL", ""), named_by, hardware_serial)
        self._adb = [adb, "-s", self._serial]
        self.where, self.words = f"phone {self._serial}", ("--serial", self._serial)

    def _call(self, *words: str, seconds: float = RUN_SECONDS) -> str:
        """What adb prints; DeviceError says what to do where adb only names a symptom."""
        done = run_program([*self._adb, *words], seconds, self.where)
        if done.code == 0:
            return done.output
        state = self._state()
        if state != "device":
            raise DeviceError(
                f"{self.where} was lost in the middle (adb: {state}): check its cable, unlock it, and run the "
                "command again"
            )
        # A failed push goes on to its speed after the error.
        errors = [line for line in (done.output + done.messages).splitlines() if line.startswith("adb: error:")]
        error = failure(self.where, "adb", Done(done.code, "", errors[0]) if errors else done)
        if _FULL in str(error):
            raise DeviceError(f"{error}; free space on it, or name a folder elsewhere with --folder")
        raise error

    def _state(self) -> str:
        """``device`` for a phone that works, or whose adb cannot tell."""
        try:
            phones = dict(listed_phones(call([self._adb[0], "devices"], RUN_SECONDS, "adb")))
        except DeviceError:
            return "device"
        return phones.get(self._serial, "not connected")

    def run(self, script: str, seconds: float = RUN_SECONDS) -> str:
        """Runs a script in the phone's shell, which is always the same and prints nothing by itself."""
        return self._call("shell", for_any_shell(script), seconds=seconds)

    def put(self, files: Sequence[Path], folder: str, now: Reporter | None = None) -> None:
        """Copies files with adb push."""
        self.run(f"mkdir -p {quote(folder)}")
        for number, file in enumerate(files):
            show_files(now, files, number)
            self._call("push", str(file), f"{folder}/", seconds=_COPY_SECONDS)

    def tracker_there(self, tunnel: Tunnel) -> str:
        """The tunnel's end on the phone; adb forwards only to this machine, so other trackers keep their address."""
        return join_address(_LOOPBACK, tunnel.seen_port) if self._leads_here(tunnel) else tunnel.tracker

    @staticmethod
    def _leads_here(tunnel: Tunnel) -> bool:
        host = split_address(tunnel.tracker)[0]
        with suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host == "localhost"

    def _reversed(self) -> dict[str, str]:
        """Ports of the phone that are forwarded to this machine."""
        lines = self._call("reverse", "--list").splitlines()
        return {words[-2]: words[-1] for words in (line.rsplit(maxsplit=2) for line in lines) if len(words) >= 2}

    def _forwarded(self) -> dict[str, str]:
        """Ports of this machine that are forwarded to the phone."""
        lines = self._call("forward", "--list").splitlines()
        entries = (line.rsplit(maxsplit=2) for line in lines)
        return {words[1]: words[2] for words in entries if len(words) == 3 and words[0] == self._serial}

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """``adb reverse`` for the tracker, ``adb forward`` for the server."""
        if self._leads_here(tunnel):
            there, here = f"tcp:{tunnel.seen_port}", f"tcp:{split_address(tunnel.tracker)[1]}"
            taken = self._reversed().get(there, here)
            if taken != here:
                raise DeviceError(
                    f"{self.where}: its port {there} leads to {taken} of this machine already; choose another with "
                    f"--device-tracker-port, or end that with: adb -s {quote(self._serial)} reverse --remove {there}"
                )
            self._call("reverse", there, here)
        self._call("forward", f"tcp:{tunnel.local_port}", f"tcp:{tunnel.server_port}")

    def close_tunnel(self, tunnel: Tunnel) -> None:
        """Removes both forwards, unless they were changed since."""
        there, here = f"tcp:{tunnel.seen_port}", f"tcp:{split_address(tunnel.tracker)[1]}"
        with suppress(DeviceError):  # a disconnected phone has no entries
            if self._leads_here(tunnel) and self._reversed().get(there) == here:
                self._call("reverse", "--remove", there)
        with suppress(DeviceError):
            if self._forwarded().get(f"tcp:{tunnel.local_port}") == f"tcp:{tunnel.server_port}":
                self._call("forward", "--remove", f"tcp:{tunnel.local_port}")
