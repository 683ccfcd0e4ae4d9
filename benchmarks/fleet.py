"""A fleet of three real device servers under one key, and the faults that ``faults.py`` injects into it.

Where it may (as root, with iproute2), one device lives in a network namespace of its own behind a virtual cable that
can be cut and slowed down; elsewhere those two kinds of fault are left out.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import psutil

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.loopback import LOOPBACK, free_port
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.tracker import Endpoint, query_tracker, require_key
from tvmfbnet.targets.definition import load_target, resolve

# The workers cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

DEVICES = 3
KEY = "fleet"
# Of the injector's own calls: what a hung kernel or a session that stays costs its device.
INJECTED_SECONDS = 2.0

BAD_KERNELS = {
    "crash": "*(volatile int*)8 = 1;",
    "abort": "__builtin_trap();",
    "hang": "for (volatile int i = 0;; ++i) {}",
}


class Cable:
    """A network namespace and the virtual cable that leads to it; what is in there sees nothing else."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.namespace, self.here, self.there = f"tvmfbnet-{os.getpid()}", f"tvmf{number}h", f"tvmf{number}d"
        self.host, self.address = f"10.213.{number}.1", f"10.213.{number}.2"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.namespace)
        _ip("addr", "add", f"{self.host}/30", "dev", self.here)
        _ip("link", "set", self.here, "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/30", "dev", self.there)
        for name in (self.there, "lo"):
            _ip("-n", self.namespace, "link", "set", name, "up")

    @staticmethod
    def can_be_had() -> bool:
        """Whether this machine lets us make one."""
        return os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("tc") is not None

    def cut(self) -> None:
        """Takes the device's end out: packets vanish, and neither end is told."""
        _ip("-n", self.namespace, "link", "set", self.there, "down")

    def mend(self) -> None:
        _ip("-n", self.namespace, "link", "set", self.there, "up")

    def slow(self) -> None:
        """About 25 kB/s towards the device."""
        shape = ["root", "tbf", "rate", "200kbit", "burst", "4kb", "latency", "2s"]
        subprocess.run(["tc", "qdisc", "replace", "dev", self.here, *shape], check=True)

    def fast(self) -> None:
        subprocess.run(["tc", "qdisc", "del", "dev", self.here, "root"], check=True)

    def close(self) -> None:
        _ip("netns", "del", self.namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@dataclass
class Device:
    """One server process of the fleet."""

    prefix: list[str]
    host: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, command, log):
        self.process = subprocess.Popen(
            [*self.prefix, *command, "--host", self.host, "--port", str(self.port), "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )

    def family(self):
        """The server and its session, if one runs."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def kill(self):
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Fleet:
    """A tracker, three servers, and an injector of kernels that crash or hang.

    Args:
        folder: for libraries and logs.
        stack: ends everything.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        target = resolve(load_target("host"))
        self.folder, self.cable = folder, None
        if Cable.can_be_had():
            self.cable = Cable()
            stack.callback(self.cable.close)
        # Where all devices reach it: this end of the cable, which leads nowhere else.
        self.endpoint = Endpoint(self.cable.host if self.cable else LOOPBACK, free_port(), KEY)
        self.bad = {name: self._bad_library(name, body) for name, body in BAD_KERNELS.items()}
        self.command = server_command(target, str(build_programs(target).server), self.endpoint.address, KEY)
        self.command += ["--folder", str(folder), "--max-session", "30"]
        self.log = stack.enter_context((folder / "servers.log").open("ab"))
        self._tracker: Service | None = None
        self.start_tracker()
        stack.callback(lambda: self._tracker.stop())
        self.devices = [Device([], LOOPBACK, free_port()) for _ in range(DEVICES)]
        if self.cable is not None:
            self.devices[0] = Device(["ip", "netns", "exec", self.cable.namespace], self.cable.address, 9090)
        for device in self.devices:
            device.start(self.command, self.log)
            stack.callback(device.kill)
        # A client of its own for what must go wrong: the others meet its consequences only.
        self.injector = stack.enter_context(RemoteWorker(self.endpoint, "cpu", 60))
        self.injector.start()

    def _bad_library(self, name: str, body: str) -> str:
        source, library = self.folder / f"{name}.c", self.folder / f"{name}.so"
        source.write_text(f"int __tvm_ffi_main(void* a, void* b, int n, void* r) {{ {body} return 0; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-O0", "-o", library, source], check=True)
        return str(library)

    def start_tracker(self) -> None:
        self._tracker = Service(["tracker", "--host", self.endpoint.host, "--port", str(self.endpoint.port)])
        self._tracker.wait_until_ready()

    def stop_tracker(self) -> None:
        self._tracker.stop()

    def await_devices(self, count: int = DEVICES) -> None:
        """Waits until that number of servers is registered."""
        deadline = time.monotonic() + 60
        while query_tracker(self.endpoint.host, self.endpoint.port).serving(KEY) < count:
            if time.monotonic() > deadline:
                raise DeviceError(f"fewer than {count} servers came back")
            time.sleep(0.05)

    def inject(self, job, *arguments):
        """A call that is meant to fail."""
        with suppress(DeviceError):
            self.injector.call(job, *arguments, seconds=INJECTED_SECONDS)

    def faults(self):
        """The kinds of fault that can be injected here, by name."""
        return FAULTS | (NETWORK_FAULTS if self.cable is not None else {})


# The faults. Each leaves the fleet able to recover by itself, or mends what only a person could.


def run_bad_kernel(session, library):
    """Calls a kernel that crashes or never ends."""
    session.load(library)["main"]()


def stay(session):
    """Keeps the session beyond its time, idle."""
    time.sleep(30)


def kill_server(fleet, device, _random):
    device.kill()
    time.sleep(0.3)
    device.start(fleet.command, fleet.log)


def freeze_server(fleet, device, generator):
    family = device.family()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(generator.choice([1, 6.5]))
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def kill_session(fleet, device, _random):
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for process in device.family()[1:]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                return


def restart_tracker(fleet, device, _random):
    fleet.stop_tracker()
    time.sleep(0.5)
    fleet.start_tracker()


def bad_kernel(name):
    return lambda fleet, device, generator: fleet.inject(run_bad_kernel, fleet.bad[name])


def session_timeout(fleet, device, _random):
    fleet.inject(stay)


def garbage(host, port, data):
    with suppress(OSError), socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(data)
        connection.settimeout(0.2)
        connection.recv(16)


def garbage_at_server(fleet, device, generator):
    garbage(device.host, device.port, generator.randbytes(generator.choice([1, 4, 64, 5000])))


def garbage_at_tracker(fleet, device, generator):
    bad_json = struct.pack("<i", 0x2F271) + struct.pack("<i", 5) + b"{]!\xff\x00"
    data = generator.choice([generator.randbytes(64), bad_json, b"GET / HTTP/1.0\r\n\r\n"])
    garbage(fleet.endpoint.host, fleet.endpoint.port, data)


def huge_key_at_server(fleet, device, _random):
    garbage(device.host, device.port, struct.pack("<ii", 0xFF271, 2**31 - 1) + b"client:")


def wrong_key(fleet, device, generator):
    key = f"client:{KEY}:{generator.random()}".encode()
    garbage(device.host, device.port, struct.pack("<ii", 0xFF271, len(key)) + key)
    with suppress(DeviceError):
        require_key(Endpoint(fleet.endpoint.host, fleet.endpoint.port, "nobody"), 0.1)


def silent_client(fleet, device, _random):
    with suppress(OSError), socket.create_connection((device.host, device.port), timeout=2):
        time.sleep(0.5)


def disk_full(fleet, device, _random):
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(device.process.pid)
        process.rlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
        time.sleep(1)
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def network_cut(fleet, device, generator):
    fleet.cable.cut()
    time.sleep(generator.choice([1, 7]))
    fleet.cable.mend()


def network_slow(fleet, device, _random):
    fleet.cable.slow()
    time.sleep(2)
    fleet.cable.fast()


FAULTS = {
    "server killed (kill -9) and back": kill_server,
    "server frozen (SIGSTOP)": freeze_server,
    "session killed": kill_session,
    "tracker gone and back": restart_tracker,
    "crashing kernel": bad_kernel("crash"),
    "aborting kernel": bad_kernel("abort"),
    "hung kernel": bad_kernel("hang"),
    "session timeout": session_timeout,
    "garbage at the server": garbage_at_server,
    "garbage at the tracker": garbage_at_tracker,
    "huge key at the server": huge_key_at_server,
    "wrong key": wrong_key,
    "silent client": silent_client,
    "disk full": disk_full,
}
NETWORK_FAULTS = {"network cut": network_cut, "network slow": network_slow}
