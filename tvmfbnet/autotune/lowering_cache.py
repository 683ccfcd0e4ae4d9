"""An on-disk cache of lowered parts, so that a resumed run does not lower them again.

Lowering a large space can outlast a preempted run. So each part is saved as soon as it is lowered, in files of its own
in the target's folder, under the dtype and a digest of everything else that affects the result: TVM target, library
versions, and our sources of blocks and compiler. Stale entries never match, and are removed when new ones are written.
Kernels and whole modules are stored separately: tuning needs no weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import tvm
from tvm.ir import IRModule

import tvmfbnet
from tvmfbnet.compiler.lowering import Kernel, kernel_key, kernels_of, lower
from tvmfbnet.errors import StorageError
from tvmfbnet.files import read_json, write_json, write_text
from tvmfbnet.progress import progress
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import ResolvedTarget

# Parts exported per call; results are saved part by part.
_PARTS_PER_CALL = 24
_LIBRARIES = ("apache-tvm", "apache-tvm-ffi", "torch", "onnx", "onnxscript")
_SOURCES = ("compiler/*.py", "quantisation/*.py", "nets/*.py", "space/*.py", "autotune/lowering_cache.py", "dtypes.py")


class LoweredParts(Mapping[NetPart, IRModule]):
    """Lowered modules of a space by part, and the kernels of each. Modules are loaded, or lowered, on first access.

    Args:
        parts: to lower.
        target: to lower for.
        folder: of the cache; None for no cache.
        writes: whether to add newly lowered parts to the cache.
    """

    def __init__(
        self, parts: Sequence[NetPart], target: ResolvedTarget, folder: Path | None = None, writes: bool = True
    ):
        self._compiled_for, self._dtype, self._batch = target.for_tvm(), target.data_type, target.batch
        batch = "" if target.batch == 1 else f"-batch{target.batch}"
        self._folder = None if folder is None else folder / f"{_digest(target.tvm_json())}-{target.dtype}{batch}"
        self._writes = writes and folder is not None
        self._modules: dict[NetPart, IRModule] = {}
        self._mods: dict[str, IRModule] = {}
        with progress("lowering blocks", len(parts)) as reporter:
            kernels_by_part: dict[NetPart, list[Kernel] | None] = {}
            for part in parts:
                kernels_by_part[part] = self._read_kernels(part)
                reporter.advance(kernels_by_part[part] is not None)
            missing = [part for part, kernels in kernels_by_part.items() if kernels is None]
            if missing and self._writes and folder is not None:
                self._drop_stale(folder)
            for part in self._lower(missing):
                kernels_by_part[part] = kernels_of(self._modules[part], self._compiled_for)
                self._keep(part, kernels_by_part[part] or [])
                reporter.advance()
        self.kernels: dict[NetPart, list[Kernel]] = {part: kernels or [] for part, kernels in kernels_by_part.items()}

    def __getitem__(self, part: NetPart) -> IRModule:
        if part not in self.kernels:
            raise KeyError(part)
        if part not in self._modules:
            kept = self._read_module(part)
            if kept is not None:
                self._modules[part] = kept
            else:
                list(self._lower([part]))
        return self._modules[part]

    def __iter__(self) -> Iterator[NetPart]:
        return iter(self.kernels)

    def __len__(self) -> int:
        return len(self.kernels)

    def __contains__(self, part: object) -> bool:
        return part in self.kernels

    def _lower(self, parts: Sequence[NetPart]) -> Iterator[NetPart]:
        if not parts:
            return
        from tvmfbnet.compiler.export import export_parts  # loads torch

        for start in range(0, len(parts), _PARTS_PER_CALL):
            for part, model in export_parts(parts[start : start + _PARTS_PER_CALL], self._dtype, self._batch).items():
                self._modules[part] = lower(model, self._compiled_for)
                yield part

    def _path(self, part: NetPart, what: str) -> Path | None:
        description = json.dumps(part.to_dict(), sort_keys=True)
        name = f"{hashlib.sha256(description.encode()).hexdigest()[:24]}.{what}.json"
        return None if self._folder is None else self._folder / name

    def _keep(self, part: NetPart, kernels: Sequence[Kernel]) -> None:
        kernel_path, module_path = self._path(part, "kernels"), self._path(part, "module")
        if not self._writes or kernel_path is None or module_path is None:
            return
        records = [
            {"key": kernel.key, "name": kernel.name, "count": kernel.count, "mod": str(tvm.ir.save_json(kernel.mod))}
            for kernel in kernels
        ]
        write_text(module_path, str(tvm.ir.save_json(self._modules[part])))
        write_json(kernel_path, records)

    def _read_kernels(self, part: NetPart) -> list[Kernel] | None:
        path = self._path(part, "kernels")
        if path is None or not path.exists():
            return None
        try:
            return [
                Kernel(record["key"], record["name"], int(record["count"]), self._kernel(record["key"], record["mod"]))
                for record in read_json(path)
            ]
        except (StorageError, KeyError, TypeError, ValueError):
            return None  # damaged: lower it again

    def _kernel(self, key: str, text: str) -> IRModule:
        if key not in self._mods:
            mod = _load(text)
            if kernel_key(mod) != key:
                raise ValueError("not the kernel that was saved")
            self._mods[key] = mod
        return self._mods[key]

    def _read_module(self, part: NetPart) -> IRModule | None:
        path = self._path(part, "module")
        if path is None:
            return None
        with suppress(OSError, ValueError):
            return _load(path.read_text(encoding="utf-8"))
        return None

    def _drop_stale(self, folder: Path) -> None:
        """Removes what other compilers lowered in this dtype; older versions did not name the dtype."""
        for other in folder.iterdir() if folder.is_dir() else ():
            if other != self._folder and other.name.partition("-")[2] in ("", self._dtype.name):
                shutil.rmtree(other, ignore_errors=True)


def _load(text: str) -> IRModule:
    """A module from its JSON; ValueError where it is none."""
    try:
        return tvm.ir.load_json(text)
    except Exception as error:  # TVM raises several kinds
        raise ValueError(f"no module: {error}") from error


@cache
def _digest(tvm_target: str) -> str:
    """A digest of everything but the dtype that affects how a part is lowered for a target."""
    sources = hashlib.sha256(tvm_target.encode())
    for library in _LIBRARIES:
        sources.update(f"{library} {version(library)}\n".encode())
    root = Path(tvmfbnet.__file__).parent
    for pattern in _SOURCES:
        for source in sorted(root.glob(pattern)):
            sources.update(source.read_bytes())
    return sources.hexdigest()[:16]
