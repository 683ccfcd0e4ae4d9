"""``tvmfbnet.compile``: a net into a package for a target, checked and timed on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from tvmfbnet import advice
from tvmfbnet.api.arguments import as_arch, as_mixable_target, as_path, as_settings, as_space, names_of
from tvmfbnet.config import MOST_BYTES, MOST_EPOCHS, MOST_LATENCY_MS, Config
from tvmfbnet.dtypes import MAX_ACCURACY_LOSS
from tvmfbnet.errors import ArchError
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.pipeline.sampled_images import images_to_calibrate, images_to_compare
from tvmfbnet.preflight import check_all, require_checkpoint, require_writable_folder
from tvmfbnet.progress import loading, say, step
from tvmfbnet.quantisation.config import QuantisationConfig
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import spelled_with_classes, spelled_with_head
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, Target, resolve
from tvmfbnet.tasks import CLASSIFICATION

if TYPE_CHECKING:
    import numpy.typing as npt

    from tvmfbnet.deploy.package import Package
    from tvmfbnet.latency.verdict import Verdict
    from tvmfbnet.nets.network import ArchNet
    from tvmfbnet.profiling.net_latency import NetLatency
    from tvmfbnet.run_files import FineTuningRecord


class CompileOptions(Config):
    """What goes into a package, and how it is checked."""

    checkpoint: Path | None = Field(None, description="trained weights (net.pt); random ones if unset")
    build_only: bool = Field(False, description="do not run it on the device: neither parity nor latency is known")
    latency_target_ms: float | None = Field(
        None, gt=0, le=MOST_LATENCY_MS, description="latency that it is made to meet"
    )
    max_accuracy_loss: float = Field(
        MAX_ACCURACY_LOSS,
        ge=0,
        le=100,
        description="percentage points of top-1 accuracy on test images that a trained net may lose in its dtype",
    )
    fine_tune_epochs: int = Field(
        0,
        ge=0,
        le=MOST_EPOCHS,
        description="passes over the training images with rounded weights and activations, for int8; kept if held-out "
        "training images get better by it",
    )
    max_package_bytes: int | None = Field(
        None, ge=1, le=MOST_BYTES, description="refuse it where a device needs more on disk: library and package.json"
    )
    device_model: str | None = Field(None, description="schedules of this device model; the last measured if unset")

    @model_validator(mode="after")
    def _verdict_needs_a_run(self) -> CompileOptions:
        if self.build_only and self.latency_target_ms is not None:
            raise ValueError("a package that is only built is not timed, so there is no verdict on latency_target_ms")
        return self

    @property
    def quantisation(self) -> QuantisationConfig:
        """How the net is quantised."""
        return QuantisationConfig(fine_tune_epochs=self.fine_tune_epochs)

    @model_validator(mode="after")
    def _fine_tuning_needs_weights(self) -> CompileOptions:
        if self.fine_tune_epochs and self.checkpoint is None:
            raise ValueError("fine_tune_epochs needs trained weights: give their checkpoint (net.pt)")
        return self


@dataclass(frozen=True)
class Compiled:
    """A compiled net.

    Attributes:
        package: on disk, with its description.
        latency: as measured on the device; None where it was only built.
        verdict: on the latency target; None without one.
        space: how the net's space is spelled.
    """

    package: Package
    latency: NetLatency | None
    verdict: Verdict | None
    space: str


def compile(
    arch: Arch | str,
    space: Space | str,
    target: Target | str,
    options: CompileOptions | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    dtype: str | None = None,
    tuning_logs: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Package:
    """Compiles a net with the schedules that tuning found, checks its output on the device and times it there.

    Without tuned schedules it compiles as well, with a warning. Needs the extra ``tune``.

    Args:
        arch: an arch, its string, or a published net: ``fbnet_a``, ``fbnet_c``.
        space: a space, or a shipped name or ``.yaml`` file. A trained net has the classes that it was trained on.
        target: a target, or a shipped name or ``.yaml`` file.
        options: weights, latency target and so on; a :class:`CompileOptions` or its fields.
        out: folder of the package.
        dtype: in place of the target's own, such as ``float16``; or ``mixed``, each unit in float32 or int8, whichever
            makes the net fastest by the target's measurements in both.
        tuning_logs: folder of all targets' measurements; by default ``tuning_logs``, or ``$TVMFBNET_TUNING_LOGS``.
        on_progress: called with an event for everything that is reported meanwhile.

    Raises:
        ArchError: the arch does not fit the space, or the checkpoint holds another net.
        ParityError: the device's output differs from PyTorch's.
        UserError: bad options, or the toolchain or the device is not there.

    Example:
        >>> import tvmfbnet as tf
        >>> arch, options = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3", tf.CompileOptions(build_only=True)
        >>> package = tf.compile(arch, "fbnet_mini", "host", options, out="package")
        >>> package.arch == arch, package.input_shape
        (True, (1, 1, 32, 32))
    """
    return compile_and_time(
        arch, space, target, options, out=out, dtype=dtype, tuning_logs=tuning_logs, on_progress=on_progress
    ).package


def compile_and_time(
    arch: Arch | str,
    space: Space | str,
    target: Target | str,
    options: CompileOptions | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    dtype: str | None = None,
    tuning_logs: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Compiled:
    """As :func:`compile`; gives the latency and the verdict as well."""
    with library_call(on_progress, **names_of(space, target, dtype, tuning_logs=tuning_logs, package=out)):
        chosen = as_settings(CompileOptions, options, "compile options")
        folder, logs, (loaded, mixed) = Path(out), as_path(tuning_logs), as_mixable_target(target, dtype)
        as_arch(arch, as_space(space))
        from tvmfbnet.provisioning.ready import require_ready

        weights = chosen.checkpoint
        check_all(
            lambda: require_writable_folder(folder),
            *([] if weights is None else [lambda: require_checkpoint(weights, "trained weights (net.pt)")]),
            lambda: chosen.quantisation.require_quantised(loaded.data_type, loaded.name, mixed),
            lambda: require_ready(loaded, runs=not chosen.build_only),
        )
        with loading():
            from tvmfbnet.deploy.bench import verdict_on
            from tvmfbnet.deploy.trial import certify_and_time

        made = _made(arch, space, weights)
        resolved = resolve(loaded)
        package = _built(made, resolved, chosen, folder, logs, mixed)
        package.require_size(chosen.max_package_bytes)  # before a device is asked
        latency = verdict = None
        if not chosen.build_only:
            images = None if made.data is None else images_to_compare(made.data, made.net.space, resolved)
            limits = (chosen.latency_target_ms, images, chosen.max_accuracy_loss)
            package, latency = certify_and_time(package, made.net, resolved, *limits)
            target_ms = chosen.latency_target_ms
            verdict = None if target_ms is None else verdict_on(package, latency, target_ms)
            package.require_size(chosen.max_package_bytes)  # its description says more now
        return Compiled(package, latency, verdict, made.spelled)


@dataclass(frozen=True)
class _Made:
    """The net to compile: its arch and space as asked for, how both are spelled, its classes, data set and task."""

    net: ArchNet
    arch: Arch
    space: Space
    spelled: str
    spelled_arch: str
    class_names: tuple[str, ...] = ()
    data: str | None = None
    task: str = CLASSIFICATION


def _made(arch: Arch | str, space: Space | str, checkpoint: Path | None) -> _Made:
    """The net with its trained weights, or with random ones.

    Raises:
        ArchError: the checkpoint holds another net.
    """
    from tvmfbnet.deploy.description import require_same_net
    from tvmfbnet.deploy.package import untrained_net
    from tvmfbnet.training.train import load_net

    net_space = as_space(space)
    spelled = space if isinstance(space, str) else space.name
    if checkpoint is None:
        net_arch, net_space = as_arch(arch, net_space)
        return _Made(untrained_net(net_arch, net_space), net_arch, net_space, spelled, _spelled(arch, net_space))
    net, about = load_net(checkpoint)
    classes = net.space.classes
    if classes != net_space.classes and ",classes=" not in spelled:
        net_space = net_space.with_classes(classes)
        spelled = spelled_with_classes(spelled, classes) if isinstance(space, str) else f"{spelled},classes={classes}"
        say(f"note: the net in {checkpoint} has {classes} classes; its space is {spelled}")
        advice.note(space=spelled)
    kind = net.space.head_kind
    if kind != net_space.head_kind and ",head=" not in spelled:
        net_space = net_space.with_head(kind)
        spelled = spelled_with_head(spelled, kind) if isinstance(space, str) else f"{spelled},head={kind}"
        say(f"note: the net in {checkpoint} has the head {kind}; its space is {spelled}")
        advice.note(space=spelled)
    net_arch, net_space = as_arch(arch, net_space)
    if format_arch(net.arch, net.space) != format_arch(net_arch, net_space):
        raise ArchError(f"{checkpoint} holds {format_arch(net.arch, net.space)}, not the arch that was asked for")
    require_same_net(checkpoint, net_arch, net.space, net_space)
    told = (tuple(about["class_names"]), about["data"], about["task"])
    return _Made(net, net_arch, net_space, spelled, _spelled(arch, net_space), *told)


def _calibration(made: _Made, target: ResolvedTarget) -> list[npt.NDArray[Any]]:
    """Calibration images, where the dtype needs some: of the training data, or random ones for a net without any."""
    if made.data is not None:
        return images_to_calibrate(made.data, made.net.space, target)
    from tvmfbnet.deploy.package import random_images

    return random_images(made.net.space, target.data_type)


def _fine_tuned(
    made: _Made, target: ResolvedTarget, options: CompileOptions, out: Path
) -> tuple[FineTuningRecord | None, Path]:
    """The judgement on the fine-tuning, None where none is asked for; and its folder, beside the package's."""
    from tvmfbnet.pipeline.fine_tuning import FOLDER, fine_tune_quantised
    from tvmfbnet.training.config import TrainConfig

    folder = out.with_name(f"{out.name}-{FOLDER}")
    if not options.fine_tune_epochs or made.data is None:
        return None, folder
    return fine_tune_quantised(made.net, made.data, target, options.quantisation, TrainConfig(), folder), folder


def _spelled(arch: Arch | str, space: Space) -> str:
    return arch if isinstance(arch, str) else format_arch(arch, space)


def _built(
    made: _Made,
    target: ResolvedTarget,
    options: CompileOptions,
    out: Path,
    logs: Path | None,
    mixed: bool,
) -> Package:
    """The package, not run yet. Says which kernels will be slow."""
    from tvmfbnet.autotune.database import existing_database
    from tvmfbnet.deploy.package import compile_net
    from tvmfbnet.deploy.trial import chosen_dtypes, with_mixed_prediction, with_prediction
    from tvmfbnet.pipeline.fine_tuning import fine_tuned_model

    device_model = options.device_model
    chosen, float32 = chosen_dtypes(made.arch, made.space, target, logs, device_model) if mixed else (None, None)
    database = existing_database(target, logs, device_model)
    if database is None:
        say(f"warning: nothing was tuned for {target.name} yet; kernels will be slow")
    tuning, tuning_folder = _fine_tuned(made, target, options, out)
    with step("compiling the net"):
        images, model = _calibration(made, target), fine_tuned_model(tuning, tuning_folder)
        package = compile_net(made.net, target, database, out, made.class_names, images, model, float32, made.task)
    if chosen is not None:
        package = with_mixed_prediction(package, chosen, target)
    else:
        package = with_prediction(package, made.arch, made.space, target, logs)
    package = package.with_description(latency_target_ms=options.latency_target_ms, fine_tuning=tuning)
    missing = package.kernels.missing
    if database is not None and missing:
        say(
            f"warning: {len(missing)} of {package.kernels.needed} conv kernels were never tuned and will be slow; "
            f"tune them with {advice.tune(target.name, arch=made.spelled_arch)}"
        )
    return package
