"""The identity of a search or training: its settings and the *contents* of its space and data, not names and paths.

A checkpoint and the files beside it carry this identity. Only a run with the same identity resumes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmfbnet.errors import DataError, StorageError
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import differences, require_same

# A space's name and description change none of its results.
_NAMES = frozenset({"name", "description"})
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def identity_of(settings: Mapping[str, Any], space: Space, fingerprint: str, **more: Any) -> dict[str, Any]:
    """An identity as plain data.

    Args:
        settings: those that change what comes out.
        space: its content counts.
        fingerprint: of the data set (:attr:`tvmfbnet.data.images.ImageData.fingerprint`).
        more: other contents that count.
    """
    return {**settings, "space": _content(space.to_dict()), "data": fingerprint, **more}


def require_identity(path: Path, recorded: Any, wanted: Mapping[str, Any], data_spec: str) -> None:
    """Refuses to resume another run's work.

    Args:
        path: the file that holds ``recorded``.
        recorded: the identity that the file was written with; one of an earlier version is understood.
        wanted: that of this run.
        data_spec: how this run's data set was named.

    Raises:
        StorageError: settings or contents differ; says which.
        DataError: only the data set differs.
    """
    if not isinstance(recorded, dict):
        raise StorageError(f"{path} does not record its settings; use another --out, or remove it")
    old = {**recorded, "space": _content(recorded.get("space"))}
    if "precision" in wanted and "precision" not in old:
        old["precision"] = wanted["precision"]
    if not _FINGERPRINT.fullmatch(str(old.get("data"))):  # an earlier version knew a data set by its place alone
        if old.get("data") != data_spec:
            raise DataError(
                f"{path} was written by an earlier version, which identified data by its path alone: give --data "
                f"{old.get('data')} to continue, or use another --out"
            )
        old["data"] = wanted["data"]
    if old["data"] != wanted["data"] and not differences({**old, "data": wanted["data"]}, wanted):
        raise DataError(
            f"{data_spec} is not the data set that {path} was made with (its content differs): give that one with "
            "--data, or use another --out"
        )
    require_same(path, old, wanted)


def require_settings(path: Path, recorded: Any, wanted: Mapping[str, Any], data_spec: str) -> None:
    """As :func:`require_identity` without the data set, whose reading may take minutes.

    Args:
        path, recorded, data_spec: as there.
        wanted: the identity of this run, whatever it says of the data set.
    """
    data = recorded.get("data") if isinstance(recorded, dict) else None
    require_identity(path, recorded, {**wanted, "data": data}, data_spec)


def _content(space: Any) -> Any:
    if not isinstance(space, dict):
        return space
    return {name: value for name, value in space.items() if name not in _NAMES}
