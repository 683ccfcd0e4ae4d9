"""A real sshd on loopback that knows one key: what tests reach a board with."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tvmfbnet.provisioning.loopback import free_port

SSHD = "/usr/sbin/sshd"


def has_sshd():
    return Path(SSHD).exists() and shutil.which("ssh") is not None


@contextmanager
def loopback_sshd(folder, login=""):
    """Starts an sshd whose files are in ``folder``, on both IP versions; the options of ``ssh -o`` that reach it.

    ``login`` is run in place of a command that is asked for, which it finds in $SSH_ORIGINAL_COMMAND.
    """
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nListenAddress [::1]\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/user.pub\n{f'ForceCommand {login}' if login else ''}\n"
        f"PidFile {folder}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    daemon = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", folder / "log"])
    try:
        wait_until_open(port)
        no_host_check = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        yield [f"Port={port}", f"IdentityFile={folder}/user", "IdentitiesOnly=yes", *no_host_check]
    finally:
        daemon.terminate()
        daemon.wait()


def wait_until_open(port):
    """Returns when something listens on a port of loopback; on a busy machine that takes a program a while."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.05)
