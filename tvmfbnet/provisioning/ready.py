"""Quick checks that a target is ready: its toolchain and its devices, before any work starts."""

from __future__ import annotations

from tvmfbnet.extras import require
from tvmfbnet.preflight import check_all
from tvmfbnet.provisioning.loopback import require_served
from tvmfbnet.provisioning.programs import require_tools
from tvmfbnet.provisioning.server_command import require_emulator
from tvmfbnet.provisioning.simulated_device import require_simulation
from tvmfbnet.targets.definition import Target, require_cores
from tvmfbnet.targets.toolchain import find_compiler

# Time for a server that lost its tracker to register again; a missing server is not waited for any longer.
_GRACE_SECONDS = 1.5


def require_ready(target: Target, runs: bool = True) -> None:
    """Refuses a target whose toolchain or device is not available. Does not load TVM.

    Args:
        target: to check.
        runs: whether its device is needed, too.

    Raises:
        MissingExtraError: TVM is not installed.
        UserError: no compiler, no tracker, no device that serves the target's key, or a missing requirement of a local
            device; several problems in one line.
    """
    require("tune")
    if target.is_simulated and runs:
        require_simulation(target)  # the compiler among what it needs
        return
    check_all(lambda: find_compiler(target), *([lambda: require_device(target)] if runs else []))


def require_device(target: Target) -> None:
    """Refuses a target whose device is not available; says what to do."""
    if target.transport.kind == "tracker":
        require_served(target, _GRACE_SECONDS)
        return
    require_cores(target)
    if target.transport.server == "native":
        require_tools(target)
        require_emulator(target)
