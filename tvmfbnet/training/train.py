"""A whole training in a folder: resumable, ends with the net's weights. ``tvmfbnet train`` calls it.

Files: ``train.ckpt`` (to continue from), ``history.json`` (one record per epoch) and ``net.pt`` (the result). Started
by torchrun, several processes share every batch (:mod:`tvmfbnet.training.workers`), and the first writes the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from tvmfbnet import process
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.places import DataSpec, check_data, folder_classes
from tvmfbnet.files import clear_leftovers, folder_lock, make_folder, write_json
from tvmfbnet.interrupts import saved_steps
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.progress import progress, resumed, say, step
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import CLASSIFICATION, task_named
from tvmfbnet.training.checkpoint import State, Tensors, damage_named, load_checkpoint, save_checkpoint, seeded
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.device import NetT, pick_device
from tvmfbnet.training.distillation import distilled_identity
from tvmfbnet.training.identity import identity_of, require_identity, require_settings
from tvmfbnet.training.memory import keep_freed_memory, memory_advice
from tvmfbnet.training.trainer import Trainer
from tvmfbnet.training.workers import Workers, is_first


class NetRecord(State):
    """The content of ``net.pt`` besides its kind and version.

    Attributes:
        arch: canonical string.
        space: :meth:`tvmfbnet.space.space.Space.to_dict`.
        data: where the data set lay.
        fingerprint: of the data set; empty in files of earlier versions.
        test_accuracy: the task's, between 0 and 1.
        state_dict: the weights.
        class_names: of the outputs, in order; empty where nobody knows them, as in files of earlier versions.
        task: what it was trained for; files of earlier versions do not say.
    """

    arch: str
    space: dict[str, Any]
    data: str
    fingerprint: str = ""
    test_accuracy: float = Field(ge=0, le=1)
    state_dict: Tensors
    class_names: list[str] = Field(default_factory=list)
    task: str = CLASSIFICATION


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Args:
        test_accuracy: the task's on the test images, between 0 and 1.
        checkpoint: file of the weights, for :func:`load_net`.
        history: one record per epoch.
        metric: what the task calls its accuracy.
    """

    test_accuracy: float
    checkpoint: Path
    history: tuple[dict[str, Any], ...]
    metric: str = "accuracy"


def train(arch: Arch, space: Space, data_spec: str, config: TrainConfig, out: Path) -> TrainResult:
    """Trains a net from scratch, or resumes the training in ``out``.

    Args:
        arch: the net.
        space: its macro-architecture. On a subset of the classes the net has as many outputs as the subset has classes.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`; the same data set may have moved since.
        config: the settings.
        out: folder of the training's files.

    Raises:
        DataError: the data set is missing, does not fit, or is not the one that ``out`` was begun with.
        UserError: the net to distil from cannot be loaded, or does not fit the data set.
        StorageError: ``out`` is not writable or another process's, its checkpoint is damaged or of another run.
        DivergedError: the loss became NaN or infinite.
        OutOfMemoryError: says which settings need less.
    """
    space = with_subset(space, data_spec)
    text = format_arch(arch, space)
    advice = f"use a smaller batch_size (it is {config.batch_size})"
    settings = {**config.content(), **distilled_identity(config)}
    check_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    with memory_advice("the training", advice), _held(out):
        path = out / "train.ckpt"
        if path.exists():  # of another training: said before the data set is read
            recorded = load_checkpoint(path, "training").get("identity")
            require_settings(path, recorded, identity_of(settings, space, "", arch=text), data_spec)
        with step("reading the data set", patience=2.0):
            data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
            identity = identity_of(settings, space, data.fingerprint, arch=text)
        if process.is_owned():
            keep_freed_memory()
        return _train(arch, space, data, data_spec, config, identity, out)


def with_subset(space: Space, data_spec: str) -> Space:
    """The space with the number of classes of the subset; unchanged without a subset."""
    spec = DataSpec.of(data_spec)
    if spec.subset is None:
        return space
    classes = len(folder_classes(spec.images, space.input_channels, spec.subset))
    if classes >= space.classes:  # all of them, or too many, which is refused when they are loaded
        return space
    say(f"note: {data_spec} has {classes} classes, so the net gets {classes} outputs, in the order of their names")
    return space.with_classes(classes)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Reserves the folder for this training and removes files that a killed one left incomplete."""
    make_folder(out)
    with folder_lock(out, "a training") if is_first() else nullcontext():
        if is_first():
            clear_leftovers(*(out / name for name in ("train.ckpt", "history.json", "net.pt")))
        yield


def _train(
    arch: Arch,
    space: Space,
    data: ImageData,
    data_spec: str,
    config: TrainConfig,
    identity: dict[str, Any],
    out: Path,
) -> TrainResult:
    workers = Workers.join(config.device)
    with seeded(config.seed, config.threads):
        trainer = Trainer(build_net(arch, space, config.dropout), data, config, workers)
        metric = trainer.task.metric
        _continue(trainer, identity, data_spec, out, tested=f"test {metric}")
        test_accuracy = trainer.history[-1]["test_accuracy"]
    chance = trainer.task.chance(data.test.unchanged_targets(torch.arange(len(data.test))))
    if chance.explains(test_accuracy):
        say(
            f"warning: the net learned nothing: its test {metric} of {chance.describe(test_accuracy)}; train longer "
            f"(epochs is {config.epochs}), with another lr (it is {config.lr:g}), or on more images"
        )
    if workers.rank == 0:
        save_net(out / "net.pt", trainer.result_net, data, data_spec, test_accuracy)
    workers.wait()
    return TrainResult(test_accuracy, out / "net.pt", tuple(trainer.history), metric)


def save_net(path: Path, net: ArchNet, data: ImageData, data_spec: str, test_accuracy: float) -> None:
    """Writes a trained net for :func:`load_net`.

    Args:
        path: the ``net.pt``.
        net: on any device.
        data: what it was trained on.
        data_spec: how that was named.
        test_accuracy: top-1, between 0 and 1.
    """
    record = NetRecord(
        arch=format_arch(net.arch, net.space),
        space=net.space.to_dict(),
        data=data_spec,
        fingerprint=data.fingerprint,
        test_accuracy=test_accuracy,
        state_dict={name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()},
        class_names=list(data.class_names),
        task=data.task,
    )
    save_checkpoint(path, "net", record.model_dump())


def fine_tune(
    net: NetT, data: ImageData, data_spec: str, config: TrainConfig, identity: dict[str, Any], out: Path
) -> NetT:
    """Trains a net that has weights already, or resumes that in ``out``; in this process alone.

    Args:
        net: images to outputs; changed in place.
        data: whose test images are held-out ones.
        data_spec: how its data set was named.
        config: the settings.
        identity: of this fine-tuning (:func:`.identity.identity_of`).
        out: folder of its files, as of a training but for ``net.pt``.

    Returns:
        The net in eval mode, on the CPU.

    Raises:
        StorageError: ``out`` is not writable or another process's, its checkpoint is damaged or of another run.
        DivergedError: the loss became NaN or infinite.
        OutOfMemoryError: says which settings need less.
    """
    return train_on(net, data, data_spec, config, identity, out, "fine-tune", "held-out").net.to("cpu").eval()


def train_on(
    net: NetT,
    data: ImageData,
    data_spec: str,
    config: TrainConfig,
    identity: dict[str, Any],
    out: Path,
    what: str = "train",
    tested: str = "test",
    begin: Mapping[str, Any] | None = None,
    watch: Callable[[Trainer[NetT]], None] | None = None,
) -> Trainer[NetT]:
    """Trains a net from the weights that it has, or resumes that in ``out``; in this process alone.

    Args:
        net, data, data_spec, config, identity, out: as of :func:`fine_tune`.
        what: is done, for progress.
        tested: on which images, for progress: test or held-out.
        begin: where the training begins (:meth:`Trainer.begin_at`); at its first step if None.
        watch: called after every step, before its checkpoint; a step that is repeated after a kill is seen twice.

    Returns:
        The finished trainer.

    Raises:
        StorageError, DivergedError, OutOfMemoryError: as :func:`fine_tune`.
    """
    advice = f"use a smaller batch_size (it is {config.batch_size})"
    with memory_advice("the training", advice), _held(out), seeded(config.seed, config.threads):
        trainer = Trainer(net, data, config, Workers.alone(pick_device(config.device)))
        if begin is not None:
            trainer.begin_at(begin)
        _continue(trainer, identity, data_spec, out, what, f"{tested} {trainer.task.metric}", watch)
        return trainer


def _continue(
    trainer: Trainer[Any],
    identity: dict[str, Any],
    data_spec: str,
    out: Path,
    what: str = "train",
    tested: str = "test accuracy",
    watch: Callable[[Trainer[Any]], None] | None = None,
) -> None:
    """All remaining steps, with checkpoints."""
    path, workers = out / "train.ckpt", trainer.workers
    if path.exists():
        saved = load_checkpoint(path, "training")
        require_identity(path, saved.get("identity"), identity, data_spec)
        with damage_named(path):
            trainer.load_state_dict(saved["trainer"])
        say(resumed(what, out, trainer.done_steps, trainer.total_steps))
    workers.require_equal("checkpoint", trainer.done_steps)
    workers.require_equal("data", int(identity["data"][:10], 16))
    forecaster = trainer.forecaster(what)
    with (
        progress(what, trainer.total_steps, trainer.done_steps) as reporter,
        saved_steps("the checkpoint", saves=workers.size == 1) as steps,
    ):
        while not trainer.finished:
            started = time.monotonic()
            with steps.timed("step"):
                epoch_ended = trainer.advance()
            for line in forecaster.step(time.monotonic() - started):
                say(line)
            if watch is not None:
                watch(trainer)
            if epoch_ended or steps.interrupted or trainer.done_steps % trainer.config.checkpoint_steps == 0:
                with steps.timed("save"):
                    state = trainer.state_dict()
                    if workers.rank == 0:
                        save_checkpoint(path, "training", {"identity": identity, "trainer": state})
            if epoch_ended and workers.rank == 0:
                write_json(out / "history.json", trainer.history)
            steps.end_if_interrupted()
            reporter.update(trainer.done_steps, _note(trainer.history, tested))


def _note(history: Sequence[dict[str, Any]], tested: str) -> str:
    """Loss and accuracy of the last complete epoch; the steps shown beside them count the epochs."""
    if not history:
        return ""
    tests = [record["test_accuracy"] for record in history if record["test_accuracy"] is not None]
    best = f", {tested} {tests[-1]:.2%}" if tests else ""
    return f"loss {history[-1]['train_loss']:.3f}{best}"


def load_net(path: Path) -> tuple[ArchNet, dict[str, Any]]:
    """The trained net of a ``net.pt``, on the CPU and in eval mode, with its metadata.

    Returns:
        The net (``net.arch`` and ``net.space`` say what it is) and a dict with ``arch``, ``data``, ``test_accuracy``,
        ``class_names`` and ``task``.

    Raises:
        StorageError: the file is missing, damaged or no trained net.
    """
    saved = load_checkpoint(path, "net")
    with damage_named(path, "train it again"):
        record = NetRecord.model_validate({name: saved[name] for name in set(saved) - {"kind", "version"}})
        space = Space.from_dict(record.space)
        net = build_net(parse_arch(record.arch, space), space)
        net.load_state_dict(record.state_dict)
        task_named(record.task)
    told = ("arch", "data", "test_accuracy", "class_names", "task")
    return net.eval(), {name: getattr(record, name) for name in told}
