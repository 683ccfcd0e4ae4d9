"""TVM's runtime for a device: the installed wheels, or the same versions for another platform."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.progress import step
from tvmfbnet.tools import cache_folder

PACKAGES = ("apache-tvm", "apache-tvm-ffi")
# Wheel contents that device programs need: headers and libraries.
_WANTED = (
    "tvm/include/",
    "tvm_ffi/include/",
    "tvm/lib/libtvm_runtime.so",
    "tvm/lib/libtvm_runtime_extra.so",
    "tvm_ffi/lib/libtvm_ffi.so",
)
_PLATFORMS = {"aarch64-linux": "manylinux_2_28_aarch64"}
_DOWNLOAD_SECONDS = 900


def installed_versions() -> dict[str, str]:
    """Versions of the installed wheels; devices must run the same."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def host_wheels() -> Path:
    """The folder with the installed ``tvm`` and ``tvm_ffi``; does not load TVM."""
    folders = set()
    for name in ("tvm", "tvm_ffi"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UserError(f"the Python package {name} is not installed: pip install {' '.join(PACKAGES)}")
        folders.add(Path(spec.origin).parent.parent)
    if len(folders) != 1:
        raise UserError(
            f"tvm and tvm_ffi lie in different folders ({', '.join(map(str, folders))}); install both again"
        )
    return folders.pop()


def fetch_wheels(system: str) -> Path:
    """A folder with headers and libraries of the same versions for another system, downloaded with pip on first use.

    If this environment has no pip, the wheel that Python bundles for new environments is run directly.

    Raises:
        UserError: there is no pip, or it could not fetch them.
    """
    wanted = [f"{name}=={version}" for name, version in installed_versions().items()]
    folder = cache_folder() / f"runtime-{system}-{'-'.join(installed_versions().values())}"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _fetch(wanted, _PLATFORMS[system], folder)
    return folder


def carried_pip() -> Path | None:
    """The pip wheel that Python bundles for new environments, which runs without installation; None if missing."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/usr/share/python-wheels")]  # Debian's, Fedora's
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent / "_bundled")
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def _pip(words: list[str], what: str) -> None:
    """Runs the installed or bundled pip; ``what`` names the download in messages."""
    done = _run([sys.executable, "-m", "pip", *words], what)
    missing = "No module named pip" in done.stderr
    if done.returncode != 0 and missing:
        wheel = carried_pip()
        if wheel is None:
            raise UserError(
                f"pip is missing in this environment, and it fetches {what}: install it with `uv pip install pip` "
                "(environments made by uv) or `python -m ensurepip`"
            )
        done = _run([sys.executable, f"{wheel}/pip", *words], what)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        advice = "; this environment has no pip of its own: uv pip install pip" if missing else ""
        raise UserError(f"could not fetch {what}: {reason}{advice}")


def _run(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"pip took longer than {_DOWNLOAD_SECONDS} s to fetch {what}") from error


def _fetch(wanted: list[str], platform: str, folder: Path) -> None:
    make_folder(folder.parent)
    with storage_errors(folder, "write"), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        words += ["--platform", platform, "--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
        with step(f"fetching {' and '.join(wanted)} for {platform} with pip"):
            _pip([*words, "--dest", temporary, *wanted], f"TVM's runtime for {platform} ({' '.join(wanted)})")
        unpacked = Path(temporary) / "unpacked"
        for wheel in Path(temporary).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith(_WANTED)])
        shutil.move(unpacked, folder)
