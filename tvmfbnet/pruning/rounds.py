"""The rounds of a pruning, in a folder: train, remove, rewind, repeat. ``tvmfbnet prune`` calls it.

Files: ``prune.ckpt`` (what it is, and the weights to rewind to), ``round-NN`` and ``control-NN`` (each with ``net.pt``,
an ordinary trained net, ``history.json``, and ``space.yaml`` where channels were removed), ``prune.json`` (the result).
A finished round is never trained again, and one that was killed resumes in the middle; the result is that of an
uninterrupted pruning, bit for bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tvmfbnet.config import MOST_SEED
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import StorageError
from tvmfbnet.files import clear_leftovers, folder_lock, make_folder, write_json, write_text
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.progress import say, step
from tvmfbnet.pruning.ticket import Size, Ticket
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.schema import written_out
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import State, Tensors, damage_named, load_checkpoint, save_checkpoint, seeded
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.distillation import distilled_identity
from tvmfbnet.training.identity import identity_of, require_identity
from tvmfbnet.training.train import load_net, save_net, train_on
from tvmfbnet.training.trainer import Trainer

CHECKPOINT, RESULT, NET, SPACE = "prune.ckpt", "prune.json", "net.pt", "space.yaml"


class RewindPoint(State):
    """Where every round after the first begins.

    Attributes:
        weights: of the dense net by name, its batch norms' statistics included.
        begin: for :meth:`Trainer.begin_at`; None at the first step.
    """

    weights: Tensors
    begin: dict[str, Any] | None


@dataclass(frozen=True)
class PruneRound:
    """One round's result. Accuracies are top-1 on the test images, between 0 and 1.

    Attributes:
        round: its number; 0 is the dense net.
        size: how much of the net it trained.
        arch: canonical string; rounds that remove channels have one of their own.
        test_accuracy: of the ticket.
        checkpoint: its weights, zeros included, for :func:`tvmfbnet.training.train.load_net`.
        control_accuracy: of the same net from other random weights; None where that was not trained.
        control_checkpoint: its weights.
    """

    round: int
    size: Size
    arch: str
    test_accuracy: float
    checkpoint: Path
    control_accuracy: float | None = None
    control_checkpoint: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the size's fields among the others."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("round", "size")}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
        return {"round": self.round, **asdict(self.size), **plain}


@dataclass(frozen=True)
class PruneResult:
    """The result of a pruning.

    Attributes:
        rounds: from the dense net to the smallest ticket.
        rewind_epochs: epochs after which the weights were taken that every round starts from.
    """

    rounds: tuple[PruneRound, ...]
    rewind_epochs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"rewind_epochs": self.rewind_epochs, "rounds": [each.to_dict() for each in self.rounds]}


@dataclass(frozen=True)
class _Pruning:
    """What all rounds share."""

    out: Path
    space: Space
    data: ImageData
    data_spec: str
    training: TrainConfig
    identity: Mapping[str, Any]

    def train(self, folder: str, net: ArchNet, ticket: Ticket, **how: Any) -> tuple[ArchNet, float]:
        """The trained plain net and its test accuracy; that of the folder where it is there already."""
        path = self.out / folder / NET
        if not path.exists():
            identity = {**self.identity, "part": folder}
            trainer = train_on(net, self.data, self.data_spec, self.training, identity, path.parent, folder, **how)
            accuracy = trainer.history[-1]["test_accuracy"]
            save_net(path, ticket.plain(trainer.result_net), self.data, self.data_spec, accuracy)
        (path.parent / "train.ckpt").unlink(missing_ok=True)  # several times the size of the net
        trained, about = load_net(path)
        return trained, about["test_accuracy"]


def run_rounds(
    dense: Ticket,
    arch: Arch,
    space: Space,
    data_spec: str,
    training: TrainConfig,
    levels: Sequence[float],
    settings: Mapping[str, Any],
    out: Path,
) -> PruneResult:
    """Prunes a net in rounds, or resumes that in ``out``.

    Args:
        dense: all of the net.
        arch, space: the dense net; its space has the data set's classes.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        training: of every round.
        levels: for :meth:`.ticket.Ticket.pruned`, one per round after the first.
        settings: of the pruning: what its result depends on, ``rewind_epochs``, ``rounds`` and ``control`` among them.
        out: folder of the files.

    Raises:
        DataError: the data set is missing, does not fit, or is not the one that ``out`` was begun with.
        StorageError: ``out`` is not writable or another process's, a file is damaged or of another pruning.
        DivergedError: a loss became NaN or infinite.
        OutOfMemoryError: says which settings need less.
    """
    make_folder(out)
    with folder_lock(out, "a pruning"):
        clear_leftovers(out / CHECKPOINT, out / RESULT)
        with step("reading the data set", patience=2.0):
            data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
        kept = {**training.content(), **distilled_identity(training)}
        identity = identity_of({**kept, **settings}, space, data.fingerprint, arch=format_arch(arch, space))
        pruning = _Pruning(out, space, data, data_spec, training, identity)
        rewind_epochs = int(settings["rewind_epochs"])
        trained, accuracy, rewind = _dense_round(pruning, dense, arch, space, rewind_epochs)
        rounds = [_round(pruning, 0, dense, trained, accuracy)]
        ticket = dense
        for number, level in enumerate(levels, start=1):
            ticket = ticket.pruned(trained, level)
            net = ticket.build(rewind.weights)
            trained, accuracy = pruning.train(_folder(number), net, ticket, begin=rewind.begin)
            record = _round(pruning, number, ticket, trained, accuracy)
            if settings["control"] and number % int(settings["rounds"]) == 0:  # a size that was asked for
                record = _with_control(pruning, ticket, record)
            rounds.append(record)
        result = PruneResult(tuple(rounds), rewind_epochs)
        write_json(out / RESULT, result.to_dict())
        return result


def _dense_round(
    pruning: _Pruning, dense: Ticket, arch: Arch, space: Space, rewind_epochs: int
) -> tuple[ArchNet, float, RewindPoint]:
    """The trained dense net, its accuracy, and the weights that it had at the rewind point."""
    path, training = pruning.out / CHECKPOINT, pruning.training

    def watch(trainer: Trainer[ArchNet]) -> None:
        if trainer.done_steps * training.epochs == rewind_epochs * trainer.total_steps:
            state = trainer.state_dict()
            begin = {name: state[name] for name in ("batches", "rng", "done_steps", "history")}
            _save_rewind(path, pruning.identity, state["net"], begin)

    if path.exists():
        require_identity(path, load_checkpoint(path, "pruning").get("identity"), pruning.identity, pruning.data_spec)
    elif (pruning.out / _folder(0) / NET).exists():
        raise StorageError(f"{path} is gone, and the rounds in {pruning.out} cannot resume: use another --out")
    with seeded(training.seed):
        net = build_net(arch, space, training.dropout)
    if not rewind_epochs and not path.exists():
        _save_rewind(path, pruning.identity, net.state_dict(), None)
    trained, accuracy = pruning.train(_folder(0), net, dense, watch=watch)
    saved = load_checkpoint(path, "pruning")
    with damage_named(path, "use another --out"):
        return trained, accuracy, RewindPoint.model_validate(saved["rewind"])


def _save_rewind(path: Path, identity: Mapping[str, Any], weights: Tensors, begin: dict[str, Any] | None) -> None:
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    save_checkpoint(path, "pruning", {"identity": dict(identity), "rewind": {"weights": tensors, "begin": begin}})


def _round(pruning: _Pruning, number: int, ticket: Ticket, trained: ArchNet, accuracy: float) -> PruneRound:
    size, path = ticket.size, pruning.out / _folder(number) / NET
    if trained.space.layers != pruning.space.layers:  # commands that take its arch need its space
        write_text(path.parent / SPACE, yaml.safe_dump(written_out(trained.space), sort_keys=False))
    if size.emptied_layers:
        say(f"warning: {size.emptied_layers} layers of round {number} have no weight left")
    return PruneRound(number, size, format_arch(trained.arch, trained.space), accuracy, path)


def _with_control(pruning: _Pruning, ticket: Ticket, record: PruneRound) -> PruneRound:
    """The round with its control: the same net from other random weights, trained for all epochs."""
    folder = f"control-{record.round:02d}"
    net = ticket.control((pruning.training.seed + 1) % (MOST_SEED + 1))
    _, accuracy = pruning.train(folder, net, ticket)
    return replace(record, control_accuracy=accuracy, control_checkpoint=pruning.out / folder / NET)


def _folder(number: int) -> str:
    return f"round-{number:02d}"
