"""The contents of a run folder, read for its report; a damaged file is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.errors import MissingBlockError, StorageError, UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.origin import LatencyOrigin
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.report.pruning_files import PruneRecord, read_prunings
from tvmfbnet.run_files import read_run_file
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import list_spaces, load_space
from tvmfbnet.space.space import Space

RECIPE = "recipe.yaml"
TABLE, SEARCH, RESULT, LOOP, BENCH = "table.json", "search/search.json", "result.json", "closed_loop.json", "bench.json"
SEARCH_HISTORY, TRAIN_HISTORY, FRONT = "search/history.json", "train/history.json", "search/front.json"


@dataclass(frozen=True)
class RunData:
    """The contents of a run folder; whatever does not exist (yet) is None.

    Attributes:
        folder: the run folder.
        recipe: ``recipe.yaml``.
        space: the search space.
        table: the latency table.
        search: ``search.json``.
        front: ``front.json``, of a search in Pareto mode.
        search_history: one record per epoch of the search.
        train_history: one record per epoch of the training.
        bench: ``bench.json``: the latency of the package, and the device it was measured on.
        result: ``result.json``.
        loop: ``closed_loop.json``: the nets that were timed before one was trained.
        arch: the found net.
        prunings: of the found net, by name.
    """

    folder: Path
    recipe: Mapping[str, Any]
    space: Space | None
    table: LatencyTable | None
    search: Mapping[str, Any] | None
    front: Mapping[str, Any] | None
    search_history: Sequence[Mapping[str, Any]] | None
    train_history: Sequence[Mapping[str, Any]] | None
    bench: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    loop: Mapping[str, Any] | None
    arch: Arch | None
    prunings: Mapping[str, PruneRecord]

    @property
    def origin(self) -> LatencyOrigin | None:
        """Where the latencies come from that the net was found on; None in runs of versions that did not say."""
        for record, name in ((self.result, "latency_source"), (self.search, "latency_source")):
            if record is not None and record.get(name):
                return LatencyOrigin(**record[name])
        if self.table is not None and (self.table.origin.kind != "unknown" or self.table.is_simulated):
            return self.table.origin
        return None

    @property
    def target_ms(self) -> float | None:
        """Latency target of the search; None if there is none or it is unknown."""
        return None if self.search is None else self.search.get("latency_target_ms")


def read_run(folder: Path) -> RunData:
    """Reads a run folder; :class:`UserError` if it is not one, :class:`StorageError` names a damaged file."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out folder of a run")
    if not (folder / RECIPE).is_file():
        raise UserError(f"{folder} is not a run (no recipe.yaml): give the --out folder of a run")
    recipe = read_yaml(folder / RECIPE)
    raw_table, search, result = (_read(folder, name) for name in (TABLE, SEARCH, RESULT))
    space = None
    # The search stores the whole space; the others may only name it.
    for name, record in ((SEARCH, search), (TABLE, raw_table), (RESULT, result)):
        if space is None and record is not None and "space" in record:
            with damage(folder / name):
                space = _space(record["space"])
    table = None
    if raw_table is not None:
        with damage(folder / TABLE):
            table = LatencyTable.from_record(raw_table)
    arch = None
    arch_text = (result or {}).get("arch") or ((search or {}).get("best") or {}).get("arch")
    if space is not None and arch_text is not None:
        with damage(folder / (RESULT if (result or {}).get("arch") else SEARCH)):
            arch = parse_arch(arch_text, space)
    searched, trained, bench, loop = (_read(folder, name) for name in (SEARCH_HISTORY, TRAIN_HISTORY, BENCH, LOOP))
    front = _read(folder, FRONT)
    prunings = read_prunings(folder)
    return RunData(folder, recipe, space, table, search, front, searched, trained, bench, result, loop, arch, prunings)


def _read(folder: Path, name: str) -> Any:
    """A file of the run, checked against its schema; None if it does not exist."""
    return read_run_file(folder, name) if (folder / name).is_file() else None


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns errors about unexpected content into one that names the file."""
    try:
        yield
    except MissingBlockError:
        raise  # the file is whole: what defines its blocks is missing
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, UserError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StorageError(f"{path} is damaged or of another version ({what}); remove it and run again") from error


def _space(value: object) -> Space | None:
    """The space of a record, stored whole or as the name of a shipped one; None for the name of a user's space."""
    if isinstance(value, Mapping):
        return Space.from_dict(value)
    return load_space(str(value)) if value in list_spaces() else None
