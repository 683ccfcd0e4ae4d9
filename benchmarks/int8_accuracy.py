"""What int8 costs in accuracy: nets drawn from a space, trained, quantised, and fine-tuned where quantisation loses.

Each net is trained in float32 on some of the training images, quantised with calibration images, and judged on all test
images: in PyTorch in float32, in ONNX Runtime in int8 (our kernels equal it within one step). A net that loses is
fine-tuned as `tvmfbnet run` does it, and the fine-tuned one is taken only where held-out training images get better by
it; test images decide nothing. Prints a line per net and the largest loss. Resumable: rerun it with the same --out.

    python benchmarks/int8_accuracy.py --out int8_accuracy
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import onnx
import torch
from figures import report_figure

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import export_net
from tvmfbnet.data.datasets import load_data
from tvmfbnet.pipeline.fine_tuning import MODEL, fine_tune_quantised, judge_model
from tvmfbnet.pipeline.recipe import load_recipe
from tvmfbnet.pipeline.sampled_images import images_to_calibrate
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train

RECIPE = "demo_int8"


def judge(arch: Arch, training: TrainConfig, epochs: int, out: Path) -> dict[str, Any]:
    """Trains, quantises and fine-tunes one net; its top-1 accuracies on all test images, in percent."""
    _, recipe = load_recipe(RECIPE)
    space, target = load_space(recipe.space), load_target(recipe.spelled_target)
    shape = (space.height, space.width, space.input_channels, space.classes)
    result = train(arch, space, recipe.data, training, out)
    net, _ = load_net(result.checkpoint)
    data = load_data(recipe.data, *shape)

    def accuracy(model: onnx.ModelProto) -> float:
        return round(100 * judge_model(model, data), 2)

    untuned = accuracy(quantise(export_net(net), images_to_calibrate(recipe.data, space, target)))
    values = {"arch": format_arch(arch, space), "float32": round(100 * result.test_accuracy, 2), "int8": untuned}
    if untuned >= values["float32"]:
        return values
    config = recipe.quantisation.model_copy(update={"fine_tune_epochs": epochs})
    record = fine_tune_quantised(net, recipe.data, target, config, training, out / "fine_tuning")
    held_out = {"before": round(100 * record.untuned_accuracy, 2), "after": round(100 * record.accuracy, 2)}
    tuned = accuracy(onnx.load(str(out / "fine_tuning" / MODEL)))
    return {**values, "held_out": held_out, "fine_tuned": tuned, "kept": record.kept}


def main() -> None:
    """Prints one JSON line per net, then the largest loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--nets", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train-images", type=int, default=20000)
    parser.add_argument("--fine-tune-epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _, recipe = load_recipe(RECIPE)
    short = {"epochs": options.epochs, "train_images": options.train_images, "test_every": options.epochs}
    training = recipe.train.model_copy(update={**short, "threads": 1})
    generator, space, losses = random.Random(options.seed), load_space(recipe.space), []
    torch.set_num_threads(1)
    for number in range(options.nets):
        arch = Arch(tuple(generator.choice(layer.blocks) for layer in space.layers))
        values = judge(arch, training, options.fine_tune_epochs, options.out / str(number))
        print(json.dumps(values), flush=True)
        taken = values["fine_tuned"] if values.get("kept") else values["int8"]
        losses.append(round(values["float32"] - taken, 2))
    report_figure(f"{options.nets} nets, largest loss in points", max(losses), "%", better="lower")
    print(json.dumps({"losses": losses, "largest": max(losses)}))


if __name__ == "__main__":
    with as_command():
        main()
