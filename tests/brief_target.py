"""A target file of this machine that is timed briefly, for tests of what surrounds the timing."""


def brief_target(**timing: float) -> str:
    """The file's text: target ``mine``; ``timing`` overrides and adds to its shortest sensible policy."""
    policy = {
        **{"warmup": 1, "repeats": 3, "min_repeat_ms": 5, "chain_rounds": 1, "drift_limit": 100},
        **{"trial_repeats": 1, "trial_min_ms": 2},
        **timing,
    }
    return (
        "name: mine\ndescription: this machine, timed briefly\nexercised: false\n"
        "tvm: {kind: llvm, mcpu: native, num-cores: 1}\ntoolchain: {kind: cxx, command: c++}\n"
        "transport: {kind: local, key: mine}\n"
        f"timing: {{{', '.join(f'{name}: {value}' for name, value in policy.items())}}}\n"
    )
