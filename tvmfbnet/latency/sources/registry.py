"""The kinds of latency sources, and how users name them.

To add a kind, write its module here and add it to :data:`KINDS`; the tests of sources enumerate them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.batches import name_with_batch, split_batch
from tvmfbnet.dtypes import FLOAT32, dtype_named, is_mixed, split_dtype, without_mixed
from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.sources.file import FileSource
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.latency.sources.simulated import PREFIX, parse_simulated
from tvmfbnet.latency.sources.source import LatencySource
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table_rows import is_table_file
from tvmfbnet.shipped import is_file_name


@dataclass(frozen=True)
class SourceKind:
    """One kind of latency sources.

    Attributes:
        name: of the kind.
        form: how a user names one, for messages and help texts.
        claims: whether a text names one of this kind.
        parse: the source that a text names; takes the folder of all targets' logs and a device model, which only
            measurements have.
    """

    name: str
    form: str
    claims: Callable[[str], bool]
    parse: Callable[[str, Path | None, str | None], LatencySource]


def _target(text: str, tuning_logs: Path | None, device_model: str | None) -> TargetSource:
    """The measurements of a target by its name, or by its ``.yaml`` file, which has name and dtype."""
    name, dtype = split_dtype(text)
    name, batch = split_batch(name)
    if is_file_name(name):
        content = read_yaml(Path(name))
        if not content.get("name"):
            raise ConfigError(name, ["a target needs a name"])
        batch = batch or (content["batch"] if isinstance(content.get("batch"), int) else None)
        name, dtype = str(content["name"]), dtype or dtype_named(str(content.get("dtype", FLOAT32.name))).name
    name = name_with_batch(name, batch or 1)
    return TargetSource(name, tuning_logs, device_model=device_model, dtype=dtype)


def _mixed(text: str, tuning_logs: Path | None, device_model: str | None) -> MixedSource:
    """The measurements of a target in float32 and in int8."""
    if split_dtype(without_mixed(text))[1] is not None:
        raise UserError(f"{text[:80]!r} names two dtypes: write one, as in host,dtype=mixed")
    return MixedSource(_target(without_mixed(text), tuning_logs, device_model).name, tuning_logs, device_model)


# The first kind that claims a text has it; any other text is a target's name.
KINDS = (
    SourceKind(
        "simulated",
        f"{PREFIX}gflops=16,gbps=8",
        lambda text: text.startswith(PREFIX),
        lambda text, tuning_logs, device_model: parse_simulated(text),
    ),
    SourceKind(
        "file",
        "FILE.csv, .parquet or .json",
        is_table_file,
        lambda text, tuning_logs, device_model: FileSource(Path(text)),
    ),
    SourceKind("mixed", "TARGET,dtype=mixed", is_mixed, _mixed),
    SourceKind("target", "a target's name or .yaml file", lambda text: True, _target),
)


def kind_of(text: str) -> str:
    """The name of the kind that a text names: ``simulated``, ``file``, ``mixed`` or ``target``."""
    return next(kind.name for kind in KINDS if kind.claims(text))


def source_of(text: str | Path, tuning_logs: Path | None = None, device_model: str | None = None) -> LatencySource:
    """The latency source that a text names: a target, a table's file, or a described processor.

    Args:
        text: as in :attr:`SourceKind.form`.
        tuning_logs: folder of all targets' measurements, for a target.
        device_model: use only this device model's measurements, for a target.

    Raises:
        UserError: the text is malformed, or names a file that is.
    """
    return next(kind for kind in KINDS if kind.claims(str(text))).parse(str(text), tuning_logs, device_model)


def table_source(text: str | Path) -> LatencySource:
    """As :func:`source_of`, where no target can be meant: any text that names no other kind names a file.

    Raises:
        UserError: as :func:`source_of`.
    """
    return FileSource(Path(text)) if kind_of(str(text)) == "target" else source_of(text)
