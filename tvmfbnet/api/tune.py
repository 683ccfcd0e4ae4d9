"""``tvmfbnet.tune``: tune the kernels of a space on a target, and time its blocks there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmfbnet.api.arguments import as_path, as_settings, as_space, as_target, names_of
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.preflight import check_all, require_writable_folder
from tvmfbnet.progress import loading
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.choice import choose_parts
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target

if TYPE_CHECKING:
    from tvmfbnet.pipeline.tuning import TuneResult, TuningForecast


def tune(
    space: Space | str,
    target: Target | str,
    options: TuneOptions | Mapping[str, Any] | None = None,
    *,
    dtype: str | None = None,
    tuning_logs: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> TuneResult:
    """Tunes every kernel of a space on a target and times its blocks there. Resumable: call it again.

    Measurements and schedules go to ``tuning_logs``, from where :meth:`LatencyTable.load` and :func:`compile` read
    them. Needs the extra ``tune``.

    Args:
        space: a space, or a shipped name or ``.yaml`` file.
        target: a target, or a shipped name or ``.yaml`` file.
        options: how much to spend, and on what; a :class:`TuneOptions` or its fields.
        dtype: in place of the target's own, such as ``float16``.
        tuning_logs: folder of all targets' measurements; by default ``tuning_logs``, or ``$TVMFBNET_TUNING_LOGS``.
        on_progress: called with an event for everything that is reported meanwhile.

    Raises:
        UserError: bad options, or the toolchain or the device is not there.
        DeviceError: the device went away and did not come back.

    Example:
        >>> import tvmfbnet as tf
        >>> tuned = tf.tune("fbnet_mini", "host", {"quality": "quick"})  # doctest: +SKIP
        >>> tuned.timed, tuned.parts  # doctest: +SKIP
        (45, 45)
    """
    with library_call(on_progress, **names_of(space, target, dtype, tuning_logs=tuning_logs)):
        chosen = as_settings(TuneOptions, options, "tuning options")
        logs, loaded, net_space = as_path(tuning_logs), as_target(target, dtype), as_space(space)
        _check(net_space, loaded, chosen)
        from tvmfbnet.provisioning.ready import require_ready

        check_all(  # before TVM is loaded, and long before anything is lowered
            lambda: require_writable_folder(target_folder(loaded.name, logs)),
            lambda: require_ready(loaded),
        )
        with loading():
            from tvmfbnet.pipeline.tuning import tune_space

        return tune_space(net_space, loaded, chosen, logs)


def forecast_tuning(
    space: Space | str,
    target: Target | str,
    options: TuneOptions | Mapping[str, Any] | None = None,
    *,
    dtype: str | None = None,
    tuning_logs: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> TuningForecast:
    """Says what :func:`tune` with the same arguments would take. Asks no device; needs the extra ``tune``.

    Where the target has no rate of its own yet, some kernels are built for some seconds to estimate one.

    Raises:
        UserError: bad options.

    Example:
        >>> import tvmfbnet as tf
        >>> tf.forecast_tuning("fbnet_mini", "host", {"blocks": "k3_e1", "trials": 500}).trials
        500
    """
    with library_call(on_progress, **names_of(space, target, dtype, tuning_logs=tuning_logs)):
        chosen = as_settings(TuneOptions, options, "tuning options")
        loaded, net_space = as_target(target, dtype), as_space(space)
        _check(net_space, loaded, chosen)
        with loading():
            from tvmfbnet.pipeline.tuning import forecast

        return forecast(net_space, loaded, chosen, as_path(tuning_logs))


def _check(space: Space, target: Target, options: TuneOptions) -> None:
    """UserError where options name blocks, an arch or targets that are not there."""
    arch, space = (None, space) if options.arch is None else resolve_arch(options.arch, space)
    choose_parts(space, options.blocks, arch)
    for other in options.learn_from:
        Target.load(other)
