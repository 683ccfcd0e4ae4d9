"""Several processes train one net together: the result of one process with the same batches, stopped and resumed."""

import json
from pathlib import Path

import pytest
import torch
from together import run_together
from torch import distributed, nn

from tvmfbnet.training.checkpoint import load_checkpoint
from tvmfbnet.training.workers import SharedDropout

ARCH = "k3_e1/k3_e3,skip"
SETTINGS = {
    **{"epochs": 4, "warmup_epochs": 0.5, "batch_size": 16, "threads": 1, "device": "cpu", "checkpoint_steps": 1},
    **{"dropout": 0.2, "lr": 0.05},
}

# What the command does, ended by the system after a number of steps.
PROGRAM = """
import os
from tvmfbnet.cli.main import main
from tvmfbnet.training.trainer import Trainer
last, arguments = {last}, {arguments}
advance = Trainer.advance
def step(self):
    if self.done_steps == last:
        os._exit(0)
    return advance(self)
Trainer.advance = step
main(arguments)
"""


class Training:
    """Calls ``tvmfbnet train`` as one process or as several."""

    def __init__(self, space_file, data, home: Path) -> None:
        self.home = home
        (home / "train.json").write_text(json.dumps(SETTINGS))
        (home / "train.json").rename(home / "train.yaml")
        self.arguments = ["train", ARCH, "--space", str(space_file), "--data", data]
        self.arguments += ["--config", str(home / "train.yaml"), "--json"]

    def run(self, processes: int, out: str, last: int = 10**9) -> str:
        arguments = [*self.arguments, "--out", str(self.home / out)]
        return run_together(PROGRAM.format(last=last, arguments=arguments), processes, self.home)

    def outcome(self, out: str):
        net = load_checkpoint(self.home / out / "net.pt", "net")
        history = json.loads((self.home / out / "history.json").read_text())
        return net["state_dict"], [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.fixture
def training(tiny_space_file, tiny_data, tmp_path):
    return Training(tiny_space_file, tiny_data, tmp_path)


def assert_same(trained, expected):
    for name, tensor in expected[0].items():
        torch.testing.assert_close(trained[0][name], tensor, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    for record, wanted in zip(trained[1], expected[1], strict=True):
        assert record == pytest.approx(wanted, rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_two_processes_train_the_net_of_one_and_resume_each_others_training(training):
    training.run(1, "one")
    for first, second in ((1, 2), (2, 1)):
        out = f"{first} then {second}"
        training.run(first, out, last=10)  # in the middle of the second epoch of seven steps
        assert load_checkpoint(training.home / out / "train.ckpt", "training")["trainer"]["done_steps"] == 10
        assert not (training.home / out / "net.pt").exists()
        ended = training.run(second, out)
        assert_same(training.outcome(out), training.outcome("one"))
        # However many processes there are, one prints and one writes.
        assert len(ended.splitlines()) == len(json.dumps(json.loads(ended), indent=2).splitlines())
        files = [".lock", "history.json", "net.pt", "train.ckpt"]
        assert sorted(path.name for path in (training.home / out).iterdir()) == files


def test_shared_dropout_leaves_out_what_one_process_does():
    x = torch.rand(6, 50) + 1
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(3)
        shared = SharedDropout(0.3).train()(x)
        torch.manual_seed(3)
        torch.testing.assert_close(shared, nn.Dropout(0.3).train()(x))
        assert torch.equal(SharedDropout(0.3).eval()(x), x)
    finally:
        distributed.destroy_process_group()
