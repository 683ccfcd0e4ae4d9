"""Several processes that train together, as torchrun starts them but as forks, which need not load torch again.

`tests/docs` runs torchrun itself, with the commands that the docs show.
"""

import os
import signal
import socket
import time

from forked import start_command


def run_together(code, count, folder, seconds=600):
    """Runs a program in ``count`` processes to their ends, their output to files in a folder; what they printed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shared = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    if count > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    started = []
    for rank in range(count):
        out = [str(folder / f"{name}{rank}.txt") for name in ("stdout", "stderr")]
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        started.append(start_command(["-c", code], folder, {**shared, **own}, out))
    deadline = time.monotonic() + seconds
    while (codes := [process.poll() for process in started]).count(0) < count:
        if any(codes) or time.monotonic() > deadline:
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            said = [(folder / f"stderr{rank}.txt").read_text()[-2000:] for rank in range(count)]
            raise AssertionError(f"ended with {codes}: {said}")
        time.sleep(0.02)
    return "".join((folder / f"stdout{rank}.txt").read_text() for rank in range(count))
