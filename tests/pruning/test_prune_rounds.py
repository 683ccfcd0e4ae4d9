"""Rounds train, prune and rewind; killed anywhere they resume to the same bits; bad input is refused in one line."""

import json
import shutil

import pytest
import torch

from tvmfbnet.cli.main import main
from tvmfbnet.errors import ConfigError, StorageError
from tvmfbnet.nets.network import build_net
from tvmfbnet.pruning.config import PruneConfig, geometric_levels
from tvmfbnet.pruning.prune import prune_weights
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.checkpoint import load_checkpoint, seeded
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net
from tvmfbnet.training.trainer import Trainer

ARCH = "k3_e1/k3_e3,skip"
TRAINING = TrainConfig(epochs=2, warmup_epochs=0.5, batch_size=40, threads=1, device="cpu", checkpoint_steps=2)
PRUNING = PruneConfig(remaining=(0.4,), rounds=2, rewind_epochs=1, control=True)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture
def pruned(tiny_space, tiny_data, tmp_path):
    """Prunes the tiny net in a folder of this name."""
    arch = parse_arch(ARCH, tiny_space)

    def run(name, config=PRUNING, training=TRAINING):
        return prune_weights(arch, tiny_space, tiny_data, config, training, tmp_path / name)

    return run


def states(folder):
    return {path.parent.name: load_net(path)[0].state_dict() for path in sorted(folder.glob("*/net.pt"))}


def test_rounds_prune_by_equal_factors_from_the_rewound_weights_and_resume_to_the_same_bits(
    pruned, tiny_space, tmp_path, monkeypatch
):
    result = pruned("whole")
    shares = [each.size.remaining for each in result.rounds]
    assert shares == pytest.approx([1, 0.4**0.5, 0.4], abs=0.002)
    made = states(tmp_path / "whole")
    assert list(made) == ["control-02", "round-00", "round-01", "round-02"], "no control between the sizes"
    kept = [made[name]["head_linear.weight"] != 0 for name in ("round-00", "round-01", "round-02")]
    assert kept[0].all() and (kept[2] <= kept[1]).all() and not kept[2].all()
    saved = load_checkpoint(tmp_path / "whole/prune.ckpt", "pruning")["rewind"]
    histories = [json.loads((tmp_path / "whole" / name / "history.json").read_text()) for name in made]
    dense, first = histories[1], histories[2]
    with seeded(TRAINING.seed):
        initial = build_net(parse_arch(ARCH, tiny_space), tiny_space).state_dict()
    early = saved["weights"]["head_linear.weight"]
    assert not any(torch.equal(early, state["head_linear.weight"]) for state in (initial, made["round-00"]))
    assert (
        saved["begin"]["done_steps"] == 3 and first[0] == dense[0] and first[1]["train_loss"] != dense[1]["train_loss"]
    )
    control = histories[0]
    assert control[0]["train_loss"] != dense[0]["train_loss"], (
        "the control has no early weights: it is trained from the start"
    )

    advance, steps = Trainer.advance, iter(range(10_000))

    def dying(self):
        if next(steps) % 5 == 4:
            raise Killed
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", dying)
    kills = 0
    while True:
        try:
            resumed = pruned("killed")
            break
        except Killed:
            kills += 1
    assert kills > 2
    again = states(tmp_path / "killed")
    for name, state in made.items():
        assert all(torch.equal(tensor, again[name][key]) for key, tensor in state.items()), name
    assert [each.test_accuracy for each in resumed.rounds] == [each.test_accuracy for each in result.rounds]
    assert not list((tmp_path / "killed").glob("*/train.ckpt"))


def test_a_folder_of_other_settings_or_without_its_rewind_point_is_refused(pruned, tmp_path):
    config, training = PruneConfig(remaining=(0.5,), rounds=1), TRAINING.model_copy(update={"epochs": 1})
    pruned("out", config, training)
    with pytest.raises(StorageError, match=r"prune\.ckpt belongs to a run with other settings \(scope was global"):
        pruned("out", config.model_copy(update={"scope": "layer"}), training)
    (tmp_path / "out/prune.ckpt").unlink()
    with pytest.raises(StorageError, match=r"prune\.ckpt is gone, and the rounds in .*out cannot resume"):
        pruned("out", config, training)


def test_shares_fall_by_equal_factors_between_those_to_reach():
    assert geometric_levels(1.0, (0.2, 0.05), 2) == pytest.approx((1, 0.2**0.5, 0.2, 0.1, 0.05))
    with pytest.raises(ConfigError, match=r"shares must fall, not 0\.2, 0\.3"):
        PruneConfig(remaining=(0.2, 0.3))
    with pytest.raises(ConfigError, match="remaining and scope are of single weights"):
        PruneConfig(latency_target_ms=1.0, scope="layer")
    with pytest.raises(ConfigError, match="multiple is of channels"):
        PruneConfig(multiple=16)
    with pytest.raises(ConfigError, match="latency_target_ms or latency_target_share, not both"):
        PruneConfig(latency_target_ms=1.0, latency_target_share=0.5)


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["prune", ARCH, *map(str, words)])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_the_command_prunes_weights_and_channels_and_refuses_bad_input_in_one_line(
    tiny_space_file, tiny_data, tmp_path, capsys
):
    given = ("--space", tiny_space_file, "--data", tiny_data, "--epochs", 1, "--batch-size", 40, "--threads", 1)
    given += ("--device", "cpu", "--rounds", 1)
    code, out, _ = run(capsys, *given, "--remaining", "50%", "--out", tmp_path / "weights", "--json")
    rounds = json.loads(out)["rounds"]
    assert code == 0 and [round(each["remaining"], 2) for each in rounds] == [1.0, 0.5]
    assert json.loads((tmp_path / "weights/prune.json").read_text())["rounds"] == rounds
    table = ("--latency-table", "simulated:gflops=1,gbps=1", "--latency-target", "90%", "--multiple", 4)
    code, out, _ = run(capsys, *given, *table, "--out", tmp_path / "channels", "--json")
    dense, narrow = json.loads(out)["rounds"]
    assert code == 0 and narrow["latency_ms"] <= 0.9 * dense["latency_ms"] and "_w" in narrow["arch"]
    code, out, _ = run(capsys, *given, *table, "--out", tmp_path / "channels")
    assert code == 0 and "predicted, ms" in out
    for words, line in (
        (("--remaining", "half"), "'half' is no share; write 40% or 0.4"),
        (("--rewind-epochs", 1), r"rewind_epochs (1) must be below the training's epochs (1)"),
        (table[:2], "give both or neither"),
        ((*table[:3], "1ms"), "no more than the latency target: nothing to prune"),
        ((*table[:3], "0.0001ms", *table[4:]), "narrower blocks save nothing more at"),
    ):
        code, _, error = run(capsys, *given, *words, "--out", tmp_path / "bad")
        assert code == 2 and line in error and error.rstrip().splitlines()[-1].startswith("error: "), error
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
