"""Which instructions this machine's CPU really has, as against those that LLVM expects of a CPU of its name.

A virtual machine may hide features of the CPU that it runs on: AVX-512 above all. LLVM knows CPUs by family and model,
names the CPU all the same, and compiled code stops at an illegal instruction.
"""

from __future__ import annotations

# Features that a compiler uses only where a program names them: system calls' own, hints, transactions, keys. Whether
# a virtual machine passes them on changes no kernel, so it must not change a target either.
_NEVER_EMITTED = frozenset(
    {
        *("adx", "aes", "pclmul", "prfchw", "vaes", "vpclmulqdq"),
        *("cldemote", "clflushopt", "clwb", "clzero", "enqcmd", "fsgsbase", "hreset", "invpcid", "kl", "lwp"),
        *("movdir64b", "movdiri", "mwaitx", "pconfig", "pku", "prefetchi", "ptwrite", "raoint", "rdpid", "rdpru"),
        *("rdrnd", "rdseed", "rtm", "serialize", "sgx", "sha", "sha512", "shstk", "sm3", "sm4", "tsxldtrk", "uintr"),
        *("usermsr", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt", "xsaves"),
    }
)


def native_cpu() -> tuple[str, tuple[str, ...]]:
    """LLVM's name of this machine's CPU, and how its features differ from those of the name: ``-avx512f``, ``+avx``.

    Loads TVM. The list is as short as it can be: a feature that goes with another is not named.
    """
    from tvm.target.codegen import llvm_get_system_cpu
    from tvm_ffi import get_global_func

    name = str(llvm_get_system_cpu())
    found = get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")() or {}
    real = {str(feature): bool(there) for feature, there in found.items()}
    return name, differences(name, real)


def differences(mcpu: str, real: dict[str, bool]) -> tuple[str, ...]:
    """What to add to a CPU's name, and to take from it, to describe a CPU with the features ``real``.

    Args:
        mcpu: LLVM's name of a CPU of this machine's kind.
        real: whether each feature is there; what is not in it counts as the name says.
    """
    named = _features(mcpu, ())
    absent = {name for name, there in real.items() if not there and name in named} - _NEVER_EMITTED
    present = {name for name, there in real.items() if there and name not in named} - _NEVER_EMITTED
    chosen: list[str] = []
    while left := absent & _features(mcpu, chosen):
        # The one whose loss takes most of the others along: without AVX-512's foundation there is nothing else of it.
        chosen.append(min((f"-{name}" for name in sorted(left)), key=lambda mark: _count(absent, mcpu, chosen, mark)))
    for name in sorted(present):
        known = _features(mcpu, chosen)
        if name not in known and not absent & (_features(mcpu, [*chosen, f"+{name}"]) - known):
            chosen.append(f"+{name}")
    return tuple(chosen)


def _count(wanted: set[str], mcpu: str, chosen: list[str], mark: str) -> int:
    return len(wanted & _features(mcpu, [*chosen, mark]))


def _features(mcpu: str, mattr: list[str] | tuple[str, ...]) -> set[str]:
    """The features that LLVM turns on for a CPU's name and attributes."""
    import tvm
    from tvm.target.codegen import llvm_get_cpu_features

    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu, **({"mattr": list(mattr)} if mattr else {})})
    return {str(feature) for feature in llvm_get_cpu_features(target)}
