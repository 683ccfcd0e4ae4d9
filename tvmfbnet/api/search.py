"""``tvmfbnet.search``: the most accurate net of a space that meets its constraints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmfbnet.api.arguments import as_settings, as_space, names_of
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.progress import loading
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.space.space import Space
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.inputs import check_inputs

if TYPE_CHECKING:
    from tvmfbnet.search.search import SearchResult


def search(
    space: Space | str,
    data: str,
    table: LatencyTable | str | Path,
    settings: SearchConfig | Mapping[str, Any] | None = None,
    *,
    out: str | Path = "search",
    on_progress: OnProgress | None = None,
) -> SearchResult:
    """Searches a space for the most accurate net that meets all constraints. Resumable: call it again.

    Args:
        space: a space, or a shipped name or ``.yaml`` file; it gets as many classes as the data set has.
        data: a data set, such as ``fashion_mnist`` or ``imagefolder:DIR``: ``docs/reference/data.md`` has all.
        table: latency of every part of the space, or what :meth:`LatencyTable.load` takes.
        settings: a :class:`SearchConfig` or its fields; what is not named has FBNet's published value.
        out: folder of the search's files.
        on_progress: called with an event for everything that is reported meanwhile.

    Returns:
        The found arch (``result.best``) and the other candidates, most accurate first.

    Raises:
        ConfigError: bad settings; lists all problems.
        LatencyError: the table lacks parts.
        ConstraintError: no arch meets the latency target or the other constraints.
        DataError: the data set is missing or does not fit.
        StorageError: ``out`` is not writable, or holds a search with other settings.
        CollapsedError, DivergedError: the search failed; its last good checkpoint is kept.

    Example:
        >>> import tvmfbnet as tf
        >>> settings = tf.SearchConfig(epochs=2, batch_size=32, latency_target_ms=0.5, constraints=("params<=120k",))
        >>> result = tf.search("fbnet_mini", "fashion_mnist", "table.csv", settings, out="search")
        >>> [(check.quantity, check.met) for check in result.best.constraints]
        [('latency', True), ('params', True)]
    """
    with library_call(on_progress, **names_of(space)):
        checked = as_settings(SearchConfig, settings, "search settings")
        net_space, folder = fit_classes(as_space(space), data), Path(out)
        check_inputs(net_space, data, folder, checked.device)
        latencies = table if isinstance(table, LatencyTable) else LatencyTable.load(table, net_space)
        with loading("PyTorch"):
            from tvmfbnet.search.search import search as search_space  # torch: only after all checks passed

        return search_space(net_space, data, latencies, checked, folder)
