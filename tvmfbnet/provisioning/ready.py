"""Whether a target can be worked for: its toolchain and its devices, asked in a moment, before anything is begun."""

from __future__ import annotations

from tvmfbnet.preflight import check_all
from tvmfbnet.provisioning.loopback import require_served
from tvmfbnet.provisioning.programs import require_tools
from tvmfbnet.provisioning.server_command import require_emulator
from tvmfbnet.targets.definition import Target, require_cores
from tvmfbnet.targets.toolchain import find_compiler

# A server that lost its tracker registers again within this; a server that is not there is not waited for any longer.
_GRACE_SECONDS = 1.5


def require_ready(target: Target, runs: bool = True) -> None:
    """Refuses a target that nothing can be linked for, or whose device is not there now. TVM is not loaded.

    Args:
        target: as its file says.
        runs: whether its device is needed, too.

    Raises:
        UserError: the compiler is missing, no tracker, nobody serves the target's key, or what a local device needs is
            not here; several problems in one line.
    """
    check_all(lambda: find_compiler(target), *([lambda: require_device(target)] if runs else []))


def require_device(target: Target) -> None:
    """Refuses a target whose device is not there now; says what to do."""
    if target.transport.kind == "tracker":
        require_served(target, _GRACE_SECONDS)
        return
    require_cores(target)
    if target.transport.server == "native":
        require_tools(target)
        require_emulator(target)
