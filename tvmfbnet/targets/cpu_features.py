"""The actual features of this machine's CPU, relative to those that LLVM assumes for a CPU of its name.

A virtual machine may hide features of its CPU, above all AVX-512. LLVM identifies CPUs by family and model and still
names the full CPU, and the compiled code dies with an illegal instruction.
"""

from __future__ import annotations

# Features that a compiler uses only on explicit request: system instructions, hints, transactions, keys. Whether a
# virtual machine exposes them changes no kernel, so it must not change a target either.
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
    """LLVM's name of this machine's CPU, and how its features differ from those of that name: ``-avx512f``, ``+avx``.

    Loads TVM. The list is minimal: features implied by another are omitted.
    """
    from tvm.target.codegen import llvm_get_system_cpu
    from tvm_ffi import get_global_func

    name = str(llvm_get_system_cpu())
    host_features = get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")() or {}
    real = {str(feature): bool(there) for feature, there in host_features.items()}
    return name, differences(name, real)


def differences(mcpu: str, real: dict[str, bool]) -> tuple[str, ...]:
    """The features to add to and remove from a CPU's name to describe a CPU with the features ``real``.

    Args:
        mcpu: LLVM's name of a CPU of this machine's kind.
        real: whether each feature is present; others are as the name implies.
    """
    named = _features(mcpu, ())
    absent = {name for name, there in real.items() if not there and name in named} - _NEVER_EMITTED
    present = {name for name, there in real.items() if there and name not in named} - _NEVER_EMITTED
    chosen: list[str] = []
    while left := absent & _features(mcpu, chosen):
        # The one whose removal also removes most of the others: all of AVX-512 depends on its foundation.
        chosen.append(min((f"-{name}" for name in sorted(left)), key=lambda mark: _count(absent, mcpu, chosen, mark)))
    for name in sorted(present):
        enabled = _features(mcpu, chosen)
        if name not in enabled and not absent & (_features(mcpu, [*chosen, f"+{name}"]) - enabled):
            chosen.append(f"+{name}")
    return tuple(chosen)


def _count(wanted: set[str], mcpu: str, chosen: list[str], mark: str) -> int:
    return len(wanted & _features(mcpu, [*chosen, mark]))


def _features(mcpu: str, mattr: list[str] | tuple[str, ...]) -> set[str]:
    """The features that LLVM enables for a CPU's name and attributes."""
    import tvm
    from tvm.target.codegen import llvm_get_cpu_features

    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu, **({"mattr": list(mattr)} if mattr else {})})
    return {str(feature) for feature in llvm_get_cpu_features(target)}
