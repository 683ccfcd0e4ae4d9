"""Becomes the first process of an Android-like system (``android_root.py``): namespaces, mounts, and a long wait."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from pathlib import Path

NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
BIND, REC, PRIVATE, REMOUNT, READ_ONLY = 0x1000, 0x4000, 0x40000, 0x20, 0x1
SET_FLAGS, UP = 0x8914, 0x1  # of a network interface
SHELL_USER = 2000
_ARM_PROGRAM = (
    rb":aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64:F"
)


def check(result: int, doing: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"cannot {doing}: {os.strerror(ctypes.get_errno())}")


def mount(libc, source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    result = libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode())
    check(result, f"mount {target}")


def enter_user_namespace(libc, inside: int, outside: int, more: int) -> None:
    check(libc.unshare(NEWUSER | more), "make namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {outside} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {outside} 1")


def become_phone(folder: Path, data_mb: str, denied: list[str]) -> None:
    """Prints the process id of the phone's first process; ends when standard input closes."""
    libc = ctypes.CDLL(None, use_errno=True)
    enter_user_namespace(libc, 0, os.getuid(), NEWNS)
    mount(libc, "none", Path("/"), "", REC | PRIVATE)
    mount(libc, str(folder), folder, "", BIND | REC)
    # A namespace's own table of foreign programs, so that this machine's stays as it is.
    mount(libc, "binfmt_misc", folder / "dev", "binfmt_misc")
    (folder / "dev" / "register").write_bytes(_ARM_PROGRAM)
    mount(libc, "tmpfs", folder / "dev", "tmpfs")
    for name in ("null", "zero", "random", "urandom"):
        (folder / "dev" / name).touch()
        mount(libc, f"/dev/{name}", folder / "dev" / name, "", BIND)
    mount(libc, "tmpfs", folder / "data", "tmpfs", 0, f"size={data_mb}m,mode=755")
    (folder / "data" / "local" / "tmp").mkdir(parents=True)
    mount(libc, "/sys", folder / "sys", "", BIND | REC)
    # What qemu itself needs, which is a program of this machine.
    mount(libc, "/lib/x86_64-linux-gnu", folder / "lib" / "x86_64-linux-gnu", "", BIND | REC)
    loader = folder / "lib64" / "ld-linux-x86-64.so.2"
    mount(libc, os.path.realpath("/lib64"), loader.parent, "", BIND | REC)
    enter_user_namespace(libc, SHELL_USER, 0, NEWNS | NEWPID | NEWNET)
    ready, tell = os.pipe()
    first = os.fork()
    if first == 0:
        be_first(libc, folder, denied, tell)
    os.close(tell)
    if os.read(ready, 1):
        print(first, flush=True)
    sys.stdin.read()
    os.kill(first, signal.SIGKILL)  # and with it all others
    os.waitpid(first, 0)


def be_first(libc, folder: Path, denied: list[str], tell: int) -> None:
    libc.prctl(1, signal.SIGKILL)
    mount(libc, "proc", folder / "proc", "proc")
    for name in denied:
        path = Path(f"{folder}{name}")
        nothing = folder / "dev" / f"denied{len(list((folder / 'dev').iterdir()))}"
        nothing.mkdir() if path.is_dir() else nothing.touch()
        nothing.chmod(0)
        if path.exists():
            mount(libc, str(nothing), path, "", BIND)
    mount(libc, "none", folder, "", REMOUNT | BIND | READ_ONLY)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    os.chroot(folder)
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(tell, b"1")
    while True:
        signal.pause()


if __name__ == "__main__":
    become_phone(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
