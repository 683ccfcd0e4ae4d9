"""The doctor: checks everything that a correct, low-noise measurement on a target's device needs, one line each.

Every wait has a deadline, and whatever touches the device runs in a worker process, so that neither a frozen device nor
a crashing driver takes the doctor down.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvmfbnet.errors import DeviceError, UserError
from tvmfbnet.latency.origin import NO_DEVICE
from tvmfbnet.machine import format_cores, parse_cores
from tvmfbnet.profiling.canary import (
    build_canary,
    build_vectors,
    device_limits,
    run_canary,
    run_vectors,
)
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.simulated_device import missing_for_simulation
from tvmfbnet.provisioning.ways import device_command
from tvmfbnet.rpc.device_facts import device_exists, device_facts
from tvmfbnet.rpc.remote import RemoteError, RemoteWorker, instructions_advice, worker_for
from tvmfbnet.rpc.session import Repeats
from tvmfbnet.rpc.tracker import Endpoint, TrackerStatus, address_text, query_tracker
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.android import find_ndk
from tvmfbnet.targets.definition import ResolvedTarget, Target, require_cores, resolve
from tvmfbnet.targets.toolchain import find_compiler
from tvmfbnet.targets.tvm_runtime import installed_versions

_NOISE_RUNS = Repeats(repeats=50, min_repeat_ms=2, warmup=1)
_ONE_RUN = Repeats(repeats=1, min_repeat_ms=0)
_CANARY_ERROR = 1e-4
_NOISY_SPREAD = 0.1
_HOT_CELSIUS = 70.0
_SETTLE_SECONDS = 3.0
_LOOK_AT_LOG = "the device runs no kernel; look at the server's log"

LinkArguments = Callable[[Target], dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report: what was checked, whether it passed, what was found, what to do."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine(target: Target, link: LinkArguments) -> Iterator[Check]:
    """Yields each check in turn; checks that depend on a failed one are skipped.

    Args:
        target: as its file says.
        link: gives the arguments of TVM's linker call for a target (:func:`tvmfbnet.compiler.library.linker`).
    """
    toolchain = _toolchain(target)
    yield toolchain
    if target.is_simulated:
        simulator = list(_simulator(target, toolchain.advice))
        yield from simulator
        if not all(check.ok for check in (toolchain, *simulator)):
            return
    if "android" in target.triple:
        yield _ndk(target)
    if target.transport.kind == "local" and target.cores:
        cores = _cores_here(target)
        yield cores
        if not cores.ok:
            return
    with ExitStack() as stack:
        try:
            endpoint = _endpoint(target, stack)
            status = _settled(endpoint)
        except UserError as error:
            yield Check("tracker", False, "not reached", str(error))
            return
        yield Check("tracker", True, f"at {endpoint.address}, servers registered: {len(status.servers)}")
        for check in _key(target, endpoint, status):
            yield check
            if not check.ok:
                return
        worker = stack.enter_context(worker_for(target, endpoint))
        yield from _device(target, worker, link, toolchain.ok)


def _toolchain(target: Target) -> Check:
    try:
        return Check("toolchain", True, find_compiler(target).command)
    except UserError as error:
        return Check("toolchain", False, "missing", str(error))


def _simulator(target: Target, told: str) -> Iterator[Check]:
    """What simulates the device: one line, or one for each tool that is missing, but for what was ``told`` before."""
    missing = missing_for_simulation(target)
    for problem in missing:
        if problem != told:
            yield Check("simulator", False, "missing", problem)
    if not missing:
        yield Check(
            "simulator", True, f"core {target.simulation.core if target.simulation else ''}: all tools are here"
        )


def _ndk(target: Target) -> Check:
    """Fails for an unusable NDK; without any, a phone whose server was pushed from another machine still works."""
    try:
        ndk = find_ndk(f"building the device programs of target {target.name}")
    except UserError as error:
        named = bool(os.environ.get("ANDROID_NDK_HOME"))
        return Check("ndk", not named, "not fit" if named else "missing", str(error))
    return Check("ndk", True, f"{ndk.revision} in {ndk.folder}")


def _cores_here(target: Target) -> Check:
    try:
        require_cores(target)
    except UserError as error:
        return Check("cores", False, target.cores, str(error))
    return Check("cores", True, target.cores)


def _endpoint(target: Target, stack: ExitStack) -> Endpoint:
    if target.transport.kind == "local":
        return stack.enter_context(connect_device(target))
    return Endpoint(target.transport.host, target.transport.port, target.transport.key)


def _settled(endpoint: Endpoint) -> TrackerStatus:
    """The tracker's status; a device whose session has just ended gets a moment to register again."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        status = query_tracker(endpoint.host, endpoint.port)
        busy = status.serving(endpoint.key) and not status.free.get(endpoint.key, 0)
        if not busy or time.monotonic() > deadline:
            return status
        time.sleep(0.1)


def _again(target: Target) -> str:
    """The commands that restart a device's server."""
    return f"{device_command('stop', target)}, then {device_command('start', target)}"


def _key(target: Target, endpoint: Endpoint, status: TrackerStatus) -> Iterator[Check]:
    serving = [server for server in status.servers if server["key"] == endpoint.key]
    if not serving:
        others = ", ".join(sorted({server["key"] for server in status.servers})) or "none"
        start = device_command("start", target)
        advice = f"start the device's server with {start}, or correct the key; keys served: {others}"
        yield Check("key", False, f"nobody serves {endpoint.key!r}", advice)
        return
    addresses = ", ".join(address_text(server) for server in serving)
    yield Check("key", True, f"{endpoint.key!r} is served by {len(serving)}: {addresses}")
    free = status.free.get(endpoint.key, 0)
    advice = "" if free else f"another session runs there: wait for it, or end it: {_again(target)}"
    yield Check("busy", free > 0, f"{free} of {len(serving)} free", advice)


def _device(target: Target, worker: RemoteWorker, link: LinkArguments, can_link: bool) -> Iterator[Check]:
    seconds = target.timeouts.connect
    try:
        exists = worker.call(device_exists, seconds=seconds)
        facts = worker.call(device_facts, seconds=seconds)
        limits = worker.call(device_limits, seconds=seconds) if exists else {}
    except DeviceError as error:
        yield Check("connect", False, str(error), f"look at the server's log: {device_command('logs', target)}")
        return
    advice = "" if exists else "check that the OpenCL plugin is beside the device's server and the device has a driver"
    yield Check(
        "connect", exists, f"device {target.device!r} {'answers' if exists else 'does not exist there'}", advice
    )
    yield _versions(facts)
    yield _machine(target, facts)
    if target.cores and "allowed_cores" in facts:
        yield _cores(target, facts)
    if limits:
        yield _limits(target, limits)
    if exists and can_link:
        yield from _canary(target, worker, link)
    if not target.is_simulated:  # whose clock is exact, at one speed
        yield from _conditions(facts)


def _versions(facts: dict[str, str]) -> Check:
    here = installed_versions()
    if "tvm_version" not in facts:
        return Check("versions", True, "the server does not report them", f"it must run TVM {here['apache-tvm']}")
    wanted = {"TVM": here["apache-tvm"], "tvm-ffi": here["apache-tvm-ffi"].split(".post")[0]}
    reported = {"TVM": facts["tvm_version"], "tvm-ffi": facts.get("ffi_version", "?")}
    text = ", ".join(f"{name} {version}" for name, version in reported.items())
    here_text = ", ".join(f"{name} {version}" for name, version in wanted.items())
    advice = "" if reported == wanted else f"here are {here_text}: build and push again"
    return Check("versions", reported == wanted, f"{text} ({facts.get('server', 'unknown server')})", advice)


def _machine(target: Target, facts: dict[str, str]) -> Check:
    machine = facts.get("machine", "")
    wanted = target.triple.split("-")[0]
    words = [facts.get(name, "") for name in ("model", "system", "kernel", "machine")]
    description = " ".join(word for word in words if word)
    cores = f", cores {facts['allowed_cores']}" if "allowed_cores" in facts else ""
    threads = f", threads {facts['threads']}" if facts.get("threads") else ""
    if facts.get("userland_bits") == "32" and "64" in machine:
        advice = "this system is 32-bit under a 64-bit kernel; install a 64-bit system"
        return Check("machine", False, f"{description or machine}, 32-bit programs", advice)
    same = not wanted or not machine or {"arm64": "aarch64"}.get(machine, machine) == wanted
    other = f"the target compiles for {target.triple}: another key, or another target"
    advice = _too_few_cores(target, facts) if same else other
    return Check("machine", same, (description or "the server does not report it") + cores + threads, advice)


def _cores(target: Target, facts: dict[str, str]) -> Check:
    """Whether the server runs on the target's cores; it may have been started for others."""
    wanted, allowed = sorted(parse_cores(target.cores)), sorted(parse_cores(facts["allowed_cores"]))
    there = int(facts["cores"]) if facts.get("cores", "").isdigit() else 0
    text = f"on {format_cores(tuple(allowed))} (target {target.cores})"
    if there and max(wanted) >= there:
        return Check("cores", False, text, f"the device has cores 0-{there - 1}: correct the target's `cores`")
    advice = "" if wanted == allowed else f"end the server and start it for this target: {_again(target)}"
    return Check("cores", wanted == allowed, text, advice)


def _too_few_cores(target: Target, facts: dict[str, str]) -> str:
    """Advice for more threads than cores, which run many times slower than one thread."""
    try:
        allowed = len(parse_cores(facts.get("allowed_cores", "")))
    except ValueError:
        return ""
    if not 0 < allowed < target.threads:
        return ""
    return (
        f"{target.threads} threads share {allowed} core(s) and wait for each other: lower threads, or allow more cores"
    )


def _limits(target: Target, limits: dict[str, int]) -> Check:
    attributes = resolve(target).for_tvm().attrs
    wanted = {name: int(attributes[name]) for name in limits if name in attributes}
    over = [f"{name}: {limits[name]}" for name, value in wanted.items() if value > limits[name]]
    text = ", ".join(f"{name} {limits[name]} (target {wanted.get(name, 'unset')})" for name in limits)
    advice = f"the target asks for more than the device has; write into its tvm: {', '.join(over)}" if over else ""
    return Check("limits", not over, text, advice)


def _canary(target: Target, worker: RemoteWorker, link: LinkArguments) -> Iterator[Check]:
    seconds = target.timeouts.connect + target.timeouts.session
    with scratch_folder() as folder:
        library = folder / "canary.so"
        resolved = resolve(target)
        build_canary(resolved, library, link(resolved))
        try:
            runs = _ONE_RUN if target.is_simulated else _NOISE_RUNS
            error, repeats = worker.call(run_canary, str(library), runs, seconds=seconds)
        except RemoteError as failure:
            advice = instructions_advice(target) if failure.illegal_instruction else _LOOK_AT_LOG
            yield Check("canary", False, str(failure), advice)
            return
    correct = error <= _CANARY_ERROR
    advice = "" if correct else "wrong results: check mcpu and features of the target, and the driver"
    yield Check("canary", correct, f"largest relative error {error:.1e}", advice)
    if target.is_simulated:
        yield Check("clock", True, f"the canary takes {repeats[0]:.4f} ms, simulated ({NO_DEVICE})")
    else:
        yield _noise(repeats)
    if target.tvm["kind"] == "llvm":
        yield _instructions(resolved, worker, link)


def _noise(repeats: Sequence[float]) -> Check:
    p10, median, p90 = (statistics.quantiles(repeats, n=10)[index] for index in (0, 4, 8))
    spread = (p90 - p10) / median
    noisy = (
        ""
        if spread <= _NOISY_SPREAD
        else "noisy: end other apps, fix governor and cores, cool it, raise timing.repeats"
    )
    text = f"{median:.4f} ms, spread (p90 - p10) {100 * spread:.0f} % over {len(repeats)} runs"
    return Check("noise", True, text, noisy)


def _instructions(target: ResolvedTarget, worker: RemoteWorker, link: LinkArguments) -> Check:
    """Whether the device has the vector instructions that kernels use; the canary uses none."""
    with scratch_folder() as folder:
        library = folder / "vectors.so"
        build_vectors(target, library, link(target))
        try:
            seconds = target.timeouts.connect + target.timeouts.session
            types = target.data_type.name, target.data_type.accumulator
            error = worker.call(run_vectors, str(library), *types, seconds=seconds)
        except RemoteError as failure:
            illegal = failure.illegal_instruction
            text = f"stopped at an illegal instruction: {failure}" if illegal else str(failure)
            return Check("instructions", False, text, instructions_advice(target) if illegal else _LOOK_AT_LOG)
    correct = error <= _CANARY_ERROR
    advice = "" if correct else "wrong results: check mcpu and features of the target"
    text = f"widest vectors of mcpu, largest relative error {error:.1e}"
    return Check("instructions", correct, text, advice)


def _conditions(facts: dict[str, str]) -> Iterator[Check]:
    governor = facts.get("governor", "")
    advice = "" if governor in ("", "performance") else "as root on the device: set it to performance while measuring"
    yield Check("governor", True, governor or "not readable", advice)
    frequency, highest = facts.get("frequency_khz", ""), facts.get("max_frequency_khz", "")
    text = f"{int(frequency) // 1000} MHz" if frequency.isdigit() else "not readable"
    yield Check("frequency", True, text + (f" of {int(highest) // 1000} MHz" if highest.isdigit() else ""))
    reading = facts.get("temperature_millicelsius", "")
    celsius = int(reading) / 1000 if reading.lstrip("-").isdigit() else None
    hot = "let it cool, or set timing.cooldown_seconds" if celsius is not None and celsius > _HOT_CELSIUS else ""
    yield Check("temperature", True, "not readable" if celsius is None else f"{celsius:.0f} °C", hot)
