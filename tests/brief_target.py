"""A target file of this machine that is compiled and timed briefly, for tests of what surrounds kernels.

LLVM does not optimise for it: a net then takes a third of the CPU time to compile.
"""

from pathlib import Path
from typing import Any

import yaml

from tvmfbnet.targets.definition import Target, load_target

# The shortest sensible timing of trials, and of parts and nets.
TRIALS = {"trial_repeats": 1, "trial_min_ms": 2}
TIMING = {"warmup": 1, "repeats": 3, "min_repeat_ms": 5, "chain_rounds": 1, "drift_limit": 100}
# In place of some of a target's own: measured once, on a machine that other work may share, which is not waited for.
ONCE = {"drift_limit": 5.0, "rest_seconds": 0, "cooldown_seconds": 0, "repeats": 3, "min_repeat_ms": 1, "visits": 1}
ONCE |= {"chain_rounds": 1, "energy_rounds": 2, "energy_seconds": 0.05, **TRIALS}


def brief_target(**timing: float) -> str:
    """The file's text: target ``mine``; ``timing`` overrides and adds to its shortest sensible policy."""
    policy = {**TIMING, **TRIALS, **timing}
    return (
        "name: mine\ndescription: this machine, timed briefly\nexercised: false\n"
        "tvm: {kind: llvm, mcpu: native, num-cores: 1, opt-level: 0}\ntoolchain: {kind: cxx, command: c++}\n"
        "transport: {kind: local, key: mine}\n"
        f"timing: {{{', '.join(f'{name}: {value}' for name, value in policy.items())}}}\n"
    )


def brief_host() -> Target:
    """This machine, whose kernels LLVM does not optimise, timed briefly."""
    host = load_target("host")
    timing = host.timing.model_copy(update=ONCE)
    return host.model_copy(update={"tvm": {**host.tvm, "opt-level": 0}, "timing": timing})


def write_host(folder: Path) -> Path:
    """``targets/host.yaml`` in a folder: ``host`` to what runs there; gives the file."""
    path = folder / "targets/host.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(host_values()))
    return path


def host_values(**changes: Any) -> dict[str, Any]:
    """What a file of :func:`brief_host` says, with some values changed."""
    return {**brief_host().model_dump(mode="json"), **changes}
