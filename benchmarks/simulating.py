"""A simulated device for a benchmark, and schedules of a space's kernels timed on it or on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tvmfbnet.autotune.builder_pool import build_candidate
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.compiler.library import linker
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import KernelJob, KernelTiming, Repeats, time_kernels
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.cycle_server import serving
from tvmfbnet.simulation.emulator import Emulation, emulator_command
from tvmfbnet.simulation.programs import build_simulator
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target, resolve
from tvmfbnet.tools import cache_folder


@contextmanager
def simulated_device(core: Core) -> Iterator[tuple[ResolvedTarget, Endpoint]]:
    """A device on a shipped simulated core: what to compile for, and where it is."""
    target = resolve(load_target(f"sim_{core.name}"))
    with connect_device(target) as endpoint:
        yield target, endpoint


@contextmanager
def simulated_host(core: Core) -> Iterator[tuple[ResolvedTarget, Endpoint]]:
    """A device of this machine's architecture on a simulated core."""
    base = load_target("host")
    with TemporaryDirectory(prefix="sim") as temporary:
        folder = Path(temporary)
        emulation = Emulation(
            build_simulator(("c++",)), mailbox=folder / "mailbox", cycle_server=folder / "cycles", sysroot=None
        )
        transport = {"kind": "local", "key": f"sim_{core.name}", "server": "native"}
        settings = {
            **base.model_dump(),
            "name": f"sim_{core.name}",
            "tvm": {**base.tvm, "mcpu": core.codegen_cpu},
            "transport": {**transport, "emulator": emulator_command(core, emulation)},
            "timeouts": {"connect": 120, "session": 3600, "trial": 600, "build": 300},
        }
        target = resolve(Target.model_validate(settings))
        with (
            serving(core, cache_folder() / "block-cycles", folder / "cycles"),
            connect_device(target) as endpoint,
        ):
            yield target, endpoint


def time_candidates(
    target: ResolvedTarget, endpoint: Endpoint, candidates: Sequence[ScheduleCandidate], repeats: Repeats
) -> list[KernelTiming]:
    """Builds candidates and times them on a device, in one session; weights stay where the call before left them."""
    with TemporaryDirectory() as folder:
        jobs = []
        for number, candidate in enumerate(candidates):
            path = Path(folder) / f"kernel{number}.so"
            content, _, _ = build_candidate(candidate.mod_json, json.dumps(target.tvm), linker(target, trial=True), 0)
            path.write_bytes(content)
            jobs.append(KernelJob(str(path), candidate.arguments))
        with worker_for(target, endpoint) as worker:
            return worker.call(time_kernels, jobs, repeats, seconds=target.timeouts.session)
