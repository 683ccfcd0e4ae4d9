"""Imports point one way, and heavy libraries stay where they belong. Reads the sources, imports none of them."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tvmfbnet"

ROOT_MODULES = {"errors", "files", "config", "progress", "strict_yaml", "machine", "settings", "run_files"}
ROOT_MODULES |= {"scratch", "interrupts", "advice", "preflight", "durations", "shipped"}
ROOT_MODULES |= {"process", "extras", "library_calls", "dtypes", "batches", "relative_error", "tools", "native_output"}

MAY_IMPORT = {
    "space": set(),
    "data": set(),
    # Cores, block cycles, the emulator: below targets, whose identity includes a simulated core.
    "simulation": set(),
    "targets": {"simulation"},
    "latency": {"space"},
    "rpc": {"targets", "latency"},
    "provisioning": {"rpc", "targets", "simulation"},
    "nets": {"space"},
    # Losses and metrics of what nets are trained for; a data set names its task.
    "tasks": {"nets"},
    "quantisation": {"nets"},
    "compiler": {"space", "nets", "targets", "rpc", "quantisation"},
    "autotune": {"compiler", "rpc", "targets", "latency", "space"},
    "profiling": {"autotune", "compiler", "provisioning", "rpc", "targets", "latency", "space"},
    "training": {"nets", "data", "space", "tasks"},
    # Lottery tickets, and channels by what they cost on a device.
    "pruning": {"training", "nets", "latency", "data", "space"},
    "search": {"training", "nets", "latency", "data", "space", "tasks"},
    "deploy": {
        *("profiling", "autotune", "compiler", "provisioning", "rpc", "targets", "latency", "nets", "space"),
        *("quantisation", "tasks"),
    },
    "report": {"space", "latency", "search", "training"},
    "pipeline": {
        *("report", "deploy", "search", "training", "profiling", "autotune", "compiler", "provisioning", "rpc"),
        *("targets", "latency", "nets", "data", "space", "quantisation", "tasks"),
    },
    # The public functions: above everything but the command line, which calls them.
    "api": {
        *("pipeline", "deploy", "search", "pruning", "training", "autotune", "profiling", "provisioning"),
        *("targets", "latency", "nets", "data", "space", "quantisation", "tasks"),
    },
}

TVM_PACKAGES = {"targets", "rpc", "provisioning", "compiler", "autotune", "profiling", "deploy"}
NO_TORCH_PACKAGES = {"space", "latency", "targets", "rpc", "provisioning", "simulation"}


def imported_names(source: str) -> set[str]:
    """Full names of every imported module, wherever in the source the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative imports are not used here; one would hide its package from this test.
            assert node.level == 0, f"relative import of {node.module}"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def packages_of(names: set[str]) -> set[str]:
    """Which of tvmfbnet's own packages and root modules the names lie in."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "tvmfbnet" and len(part) > 1} - {"__version__"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def breaches(file: str, package: str, source: str) -> list[str]:
    names = imported_names(source)
    tops = {name.split(".")[0] for name in names}
    breached = []
    if package in MAY_IMPORT:
        allowed = MAY_IMPORT[package] | ROOT_MODULES | {package}
        breached += [f"{file} imports tvmfbnet.{other}" for other in sorted(packages_of(names) - allowed)]
    if package in ROOT_MODULES:
        breached += [f"{file} imports tvmfbnet.{other}" for other in sorted(packages_of(names) - ROOT_MODULES)]
    if package not in TVM_PACKAGES and tops & {"tvm", "tvm_ffi"}:
        breached.append(f"{file} names tvm")
    if package in NO_TORCH_PACKAGES and tops & {"torch", "torchvision", "timm"}:
        breached.append(f"{file} names torch")
    return breached


def test_imports_point_one_way():
    breached = [
        breach
        for file in sources()
        for breach in breaches(str(file.relative_to(PACKAGE)), package_of(file), file.read_text(encoding="utf-8"))
    ]
    assert not breached, "\n".join(breached)


def test_every_package_has_a_rule():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"cli"} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("space", "import torch"),
        ("space", "from tvmfbnet.latency.table import Cell"),
        ("search", "def f():\n    from tvm import relax"),
        ("search", "from tvmfbnet import autotune"),
        ("latency", "import tvmfbnet.nets.blocks"),
        ("rpc", "import torch.nn"),
        ("errors", "from tvmfbnet.space.arch import Arch"),
        ("cli", "import tvm_ffi"),
        ("api", "from tvmfbnet.cli.main import app"),
        ("pipeline", "from tvmfbnet.api.search import search"),
    ],
)
def test_a_wrong_import_would_be_found(package, source):
    assert breaches("some.py", package, source)


def test_no_two_public_classes_have_one_name():
    names = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
