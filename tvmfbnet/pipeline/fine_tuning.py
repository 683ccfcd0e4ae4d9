"""Fine-tuning of a quantised net, kept only where it makes the net better.

The trained net is quantised from calibration images as ever. Then it is trained on with its weights and activations
rounded, on the training images but some that are held out. Both nets are judged on these in the reference that
integer kernels are checked against, and the fine-tuned one is the result if it is more accurate.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from tvmfbnet.compiler.export import export_net
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.fingerprint import joined_digest
from tvmfbnet.data.held_out import with_held_out
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import in_order
from tvmfbnet.files import make_folder, storage_errors, write_atomically, write_json
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.pipeline.sampled_images import images_to_calibrate
from tvmfbnet.progress import progress, say, step
from tvmfbnet.quantisation.config import QuantisationConfig
from tvmfbnet.quantisation.fake_quantised import FakeQuantisedNet
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.run_files import FineTuningRecord
from tvmfbnet.targets.definition import Target
from tvmfbnet.tasks import task_named
from tvmfbnet.training.checkpoint import load_checkpoint
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.identity import identity_of, require_identity
from tvmfbnet.training.train import fine_tune

FOLDER, RECORD, MODEL = "fine_tuning", "fine_tuning.json", "net.onnx"
# Settings of the training that decide nothing about the fine-tuning, or that it has values of its own for.
_UNUSED = {"epochs", "warmup_epochs", "lr", "device", "threads", "checkpoint_steps", "test_every"}


def fine_tune_quantised(
    net: ArchNet, data_spec: str, target: Target, config: QuantisationConfig, training: TrainConfig, out: Path
) -> FineTuningRecord:
    """Fine-tunes a trained net in a target's dtype, or resumes that in ``out``, and judges the result.

    Args:
        net: in float32.
        data_spec: the data set that it was trained on.
        target: says the dtype.
        config: the settings.
        training: that of the net, whose batch size, augmentation, seed and so on this takes over.
        out: folder of the files: those of a training, ``fine_tuning.json``, and the fine-tuned net as ``net.onnx``.

    Raises:
        UserError: the data is not there, or the net cannot be fine-tuned.
        StorageError: ``out`` is another process's, or holds another fine-tuning.
        DivergedError: the loss became NaN or infinite.
    """
    space = net.space
    data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    settings = _settings(config, training)
    own = {"weights": _digest(net), "train_images": training.train_images, **config.model_dump()}
    identity = identity_of(settings.model_dump(exclude=_UNUSED), space, data.fingerprint, **own)
    checkpoint = out / "train.ckpt"
    if checkpoint.exists():  # of another fine-tuning: said before the net is quantised
        require_identity(checkpoint, load_checkpoint(checkpoint, "training").get("identity"), identity, data_spec)
    with step("quantising the net"):
        model = export_net(net.eval())
        untuned = quantise(model, images_to_calibrate(data_spec, space, target))
    divided = with_held_out(data, training.seed, training.train_images)
    module = FakeQuantisedNet(model, untuned)
    tuned = fine_tune(module, divided, data_spec, settings, identity, make_folder(out)).to_model()
    accuracy, untuned_accuracy = (judge_model(item, divided) for item in (tuned, untuned))
    record = FineTuningRecord(
        epochs=config.fine_tune_epochs,
        images=len(divided.test),
        accuracy=accuracy,
        untuned_accuracy=untuned_accuracy,
        kept=accuracy > untuned_accuracy,
    )
    write_atomically(out / MODEL, lambda path: onnx.save(tuned, str(path)))
    write_json(out / RECORD, record.model_dump())
    say(f"fine-tuning: {record.describe()}")
    return record


def fine_tuned_model(record: FineTuningRecord | None, folder: Path) -> onnx.ModelProto | None:
    """The fine-tuned net as a QDQ model where it was kept, else None: then the trained net is quantised as ever.

    Args:
        record: of the fine-tuning; None without one.
        folder: of its files.
    """
    if record is None or not record.kept:
        return None
    with storage_errors(folder / MODEL, "read"):
        return onnx.load(str(folder / MODEL))


def _settings(config: QuantisationConfig, training: TrainConfig) -> TrainConfig:
    """Those of the training, but for a small learning rate and no averaging over many epochs."""
    own = {"epochs": config.fine_tune_epochs, "lr": config.fine_tune_lr, "warmup_epochs": 0.0, "train_images": None}
    # Weights are folded with batch norms, so weight decay would change the function. Rounding needs float32.
    return training.model_copy(
        update={**own, "ema_decay": None, "weight_decay": 0.0, "dropout": 0.0, "precision": "float32"}
    )


def _digest(net: nn.Module) -> str:
    tensors = net.state_dict()
    return joined_digest(
        f"{name} {hashlib.sha256(tensors[name].cpu().contiguous().numpy().tobytes()).hexdigest()}" for name in tensors
    )


def judge_model(model: onnx.ModelProto, data: ImageData) -> float:
    """The accuracy of a QDQ model on the test images (here: held-out ones), in ONNX Runtime."""
    reference, task, total, done = QuantisedReference(model), task_named(data.task), len(data.test), 0
    tallies = []
    with progress("judging the int8 net", total) as reporter:
        for pixels, targets in in_order(data, data.test, torch.arange(total), 100):
            outputs = np.concatenate([reference.run(image[None]) for image in pixels.numpy()])
            tallies.append(task.tally(torch.from_numpy(outputs), targets))
            done += len(targets)
            reporter.update(done)
    return task.accuracy(task.added(tallies))
