"""What docs/how-to/macs.md tells a Raspberry Pi's owner: TVM's own Python server, from the aarch64 wheel, is a device.

Runs under qemu. `scripts/arm_python` fetches the Python and its wheels; `scripts/test` calls it.
"""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from device_samples import compile_small

from tvmfbnet.provisioning.loopback import free_port, local_tracker
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.session import run_library
from tvmfbnet.rpc.tracker import require_key

pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture
def folder():
    named = os.environ.get("TVMFBNET_ARM_PYTHON", "")
    if not named:
        pytest.skip("needs an aarch64 Python: scripts/arm_python DIR, then TVMFBNET_ARM_PYTHON=DIR")
    return Path(named).resolve()


def test_the_python_server_of_the_aarch64_wheel_runs_a_net_that_equals_pytorch(folder, tmp_path):
    net, package = compile_small("qemu_arm", tmp_path)
    image = np.random.default_rng(3).standard_normal(package.input_shape).astype(np.float32)
    with local_tracker("pi") as endpoint, RemoteWorker(endpoint, "cpu", 200, 60) as worker:
        port = free_port()
        command = [folder / "python", folder / "rpc_server.py", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--port-end", str(port + 1), "--tracker", endpoint.address, "--key", "pi"]
        server = subprocess.Popen([*command, "--custom-addr", "127.0.0.1"], start_new_session=True)
        try:
            require_key(endpoint, 300)
            # An aarch64 library: no other machine's process could load it.
            got = worker.call(run_library, str(package.library), [image], seconds=200)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(image)).numpy()
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
