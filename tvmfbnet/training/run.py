"""A whole training in a folder: resumes where it stopped, ends with the net's weights. What ``tvmfbnet train`` calls.

Files: ``train.ckpt`` (to continue from), ``history.json`` (one record an epoch) and ``net.pt`` (the result).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.files import make_folder, write_json
from tvmfbnet.nets.arch_net import ArchNet, build_net
from tvmfbnet.nets.checkpoint import load_checkpoint, require_same, save_checkpoint, seeded
from tvmfbnet.nets.memory import keep_freed_memory
from tvmfbnet.progress import progress, say
from tvmfbnet.space.arch import Arch, format_arch, parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.trainer import Trainer

# Settings that change how a training is run, but not what comes out of it.
_FREE_SETTINGS = frozenset({"checkpoint_steps", "device", "threads"})


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Args:
        test_accuracy: top-1 on the test pictures, between 0 and 1.
        checkpoint: file of the weights, for :func:`load_net`.
        history: one record an epoch.
    """

    test_accuracy: float
    checkpoint: Path
    history: tuple[dict[str, Any], ...]


def train(arch: Arch, space: Space, data_spec: str, config: TrainConfig, out: Path) -> TrainResult:
    """Trains a net from scratch, or continues the training that ``out`` holds.

    Args:
        arch: the net.
        space: its macro-architecture.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        config: the settings.
        out: folder of the training's files.

    Raises:
        DataError: the data set is missing or does not fit.
        StorageError: ``out`` is not writable, its checkpoint is damaged or of another arch or other settings.
        DivergedError: the loss became NaN or infinite.
    """
    text = format_arch(arch, space)
    data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    make_folder(out)
    keep_freed_memory()
    settings = {name: value for name, value in config.model_dump().items() if name not in _FREE_SETTINGS}
    identity = {**settings, "arch": text, "space": space.to_dict(), "data": data_spec}
    with seeded(config.seed, config.threads):
        trainer = Trainer(arch, space, data, config)
        _continue(trainer, identity, out)
        test_accuracy = trainer.history[-1]["test_accuracy"]
    record = {
        "arch": text,
        "space": space.to_dict(),
        "data": data_spec,
        "test_accuracy": test_accuracy,
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in trainer.result_net.state_dict().items()},
    }
    save_checkpoint(out / "net.pt", "net", record)
    return TrainResult(test_accuracy, out / "net.pt", tuple(trainer.history))


def _continue(trainer: Trainer, identity: dict[str, Any], out: Path) -> None:
    """All remaining steps, with checkpoints."""
    path = out / "train.ckpt"
    if path.exists():
        saved = load_checkpoint(path, "training")
        require_same(path, saved["identity"], identity)
        try:
            trainer.load_state_dict(saved["trainer"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise StorageError(f"{path} is damaged; remove it to start anew") from error
        say(f"train: continuing {out} at step {trainer.done_steps + 1} of {trainer.total_steps}")
    with progress("train", trainer.total_steps, trainer.done_steps) as reporter:
        while not trainer.finished:
            epoch_ended = trainer.advance()
            if epoch_ended or trainer.done_steps % trainer.config.checkpoint_steps == 0:
                save_checkpoint(path, "training", {"identity": identity, "trainer": trainer.state_dict()})
            if epoch_ended:
                write_json(out / "history.json", trainer.history)
            reporter.update(trainer.done_steps, _note(trainer.history))


def _note(history: Sequence[dict[str, Any]]) -> str:
    if not history:
        return ""
    tests = [record["test_accuracy"] for record in history if record["test_accuracy"] is not None]
    best = f", test accuracy {tests[-1]:.2%}" if tests else ""
    return f"epoch {history[-1]['epoch']}: loss {history[-1]['train_loss']:.3f}{best}"


def load_net(path: Path) -> tuple[ArchNet, dict[str, Any]]:
    """The trained net of a ``net.pt``, on the CPU and in eval mode, with its metadata.

    Returns:
        The net (``net.arch`` and ``net.space`` say what it is) and a dict with ``arch``, ``data``, ``test_accuracy``.

    Raises:
        StorageError: the file is missing, damaged or no trained net.
    """
    record = load_checkpoint(path, "net")
    try:
        space = Space.from_dict(record["space"])
        net = build_net(parse_arch(record["arch"], space), space)
        net.load_state_dict(record["state_dict"])
        metadata = {name: record[name] for name in ("arch", "data", "test_accuracy")}
    except (KeyError, TypeError, RuntimeError, UserError) as error:
        raise StorageError(f"{path} is a damaged net; train it again") from error
    return net.eval(), metadata
