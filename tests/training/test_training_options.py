"""What a training may do besides: distillation, mixed batches, RandAugment, batches in parts, steps of the rate."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.config import validate
from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.data.rand_augment import OPERATIONS, rand_operation
from tvmfbnet.errors import ConfigError, StorageError, UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.nets.network import build_net
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.checkpoint import load_checkpoint
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.device import place_batch, place_net
from tvmfbnet.training.distillation import Distillation, distilled_identity, load_distillation
from tvmfbnet.training.distilled_net import Renormalised
from tvmfbnet.training.mixing import Mixing, hard_labels
from tvmfbnet.training.recipe import list_training_recipes, training_recipe
from tvmfbnet.training.timm_parts import create_scheduler_v2
from tvmfbnet.training.train import train
from tvmfbnet.training.trainer import Trainer

PLAIN = {"epochs": 2, "warmup_epochs": 0.5, "batch_size": 16, "threads": 1, "device": "cpu", "ema_decay": None}
EVERYTHING = {
    **{"mixup": 0.4, "cutmix": 1.0, "rand_augment": 2, "rand_magnitude": 0.5, "accumulate": 3, "decay_epochs": [1]},
    **{"distil_weight": 0.3, "dropout": 0.2, "ema_decay": 0.9},
}


@pytest.fixture
def data(tiny_data):
    return load_data(tiny_data, 28, 28, 1)


@pytest.fixture
def net(tiny_space):
    torch.manual_seed(0)
    return build_net(parse_arch("k3_e1/k3_e3,skip", tiny_space), tiny_space)


def same(first, second):
    return all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_with_everything_off_a_training_is_the_plain_loop_bit_for_bit(net, tiny_space, data):
    config = TrainConfig(**PLAIN)
    trainer = Trainer(net, data, config)
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(3):
        trainer.advance()
    plain = build_net(net.arch, tiny_space)
    plain.load_state_dict(initial)
    plain = place_net(plain, torch.device("cpu")).train()
    torch.manual_seed(1)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(config.seed))
    batches = Loader(data, data.train, order, 16, Augment(2, True), config.seed)
    decayed = [[p for p in plain.parameters() if (p.dim() > 1) is matrix] for matrix in (True, False)]
    groups = [{"params": decayed[0], "weight_decay": 4e-5}, {"params": decayed[1], "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)
    schedule, _ = create_scheduler_v2(
        optimiser, num_epochs=2, warmup_epochs=0.5, warmup_lr=0.002, step_on_epochs=False, updates_per_epoch=7
    )
    for step in range(3):
        schedule.step_update(step)
        pixels, labels = place_batch(*batches.next(), torch.device("cpu"))
        loss = F.cross_entropy(plain(pixels).float(), labels, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert same(plain.state_dict(), trainer.net.state_dict())


def test_settings_that_are_off_are_no_part_of_a_trainings_identity():
    before = {
        "epochs",
        "warmup_epochs",
        "batch_size",
        "train_images",
        "lr",
        "momentum",
        "weight_decay",
        "gradient_clip",
    }
    before |= {
        "label_smoothing",
        "dropout",
        "ema_decay",
        "augment_shift",
        "augment_flip",
        "precision",
        "test_every",
        "seed",
    }
    assert set(TrainConfig().content()) == before, "checkpoints of earlier versions resume"
    assert set(TrainConfig(**EVERYTHING).content()) == before | set(EVERYTHING)


def test_stopped_after_a_step_and_continued_with_everything_on_it_ends_bit_equal(net, data, tiny_space, tmp_path):
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trained = build_net(parse_arch("k3_e1/k3_e1,k3_e1", tiny_space), tiny_space)

    def make():
        torch.manual_seed(0)
        learner = build_net(net.arch, tiny_space, EVERYTHING["dropout"])
        learner.load_state_dict(initial)
        trainer = Trainer(learner, data, TrainConfig(**{**PLAIN, **EVERYTHING}))
        trainer.distilled = Distillation(trained, 0.3, 2.0, "float32")
        return trainer

    whole = make()
    while not whole.finished:
        if whole.done_steps == 9:
            torch.save(whole.state_dict(), tmp_path / "state")
        whole.advance()
    second = make()
    torch.rand(5)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    while not second.finished:
        second.advance()
    assert same(whole.result_net.state_dict(), second.result_net.state_dict())
    assert [record["train_loss"] for record in whole.history] == [record["train_loss"] for record in second.history]
    assert whole.history[0]["lr"] / whole.history[1]["lr"] == pytest.approx(10), "a tenth after the first epoch"


def test_a_batch_in_parts_has_the_gradient_of_the_whole(data):
    class WithoutNorms(nn.Sequential):
        def __init__(self):
            torch.manual_seed(0)
            super().__init__(nn.Conv2d(1, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))

    def trained(parts):
        trainer = Trainer(WithoutNorms(), data, TrainConfig(**PLAIN, accumulate=parts, augment_shift=0))
        for _ in range(7):
            trainer.advance()
        return trainer.net.state_dict(), trainer.history[0]

    (whole, first), (parts, second) = trained(1), trained(3)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-4)
    assert first["train_accuracy"] == pytest.approx(second["train_accuracy"])


def test_mixed_images_have_mixed_labels():
    torch.manual_seed(0)
    pixels, labels = torch.zeros(4, 1, 8, 8), torch.arange(4)
    pixels += labels.view(-1, 1, 1, 1)
    unchanged = Mixing(0.0, 0.0, 4).of(pixels, labels)
    assert unchanged[0] is pixels and unchanged[1] is labels
    for mixing in (Mixing(1.0, 0.0, 4), Mixing(0.0, 1.0, 4), Mixing(0.5, 0.5, 4)):
        mixed, shares = mixing.of(pixels.clone(), labels)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
        # Each image's mean is that of its labels: image i consists of pixels of value i.
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares @ torch.arange(4.0))
        assert hard_labels(shares).tolist() == shares.argmax(dim=1).tolist()
    both = [Mixing(0.5, 0.5, 4).of(pixels.clone(), labels)[0] for _ in range(20)]
    assert {torch.equal(mixed, mixed.round()) for mixed in both} == {True, False}, "mixup alone makes new values"


def test_rand_augment_changes_images_within_their_type_and_repeats():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = []
    for number in range(OPERATIONS):
        for sign in (0.1, 0.9):
            changed = rand_operation(image, (number + 0.5) / OPERATIONS, sign, 0.5)
            assert changed.dtype == torch.uint8 and changed.shape == image.shape
            made.append(not torch.equal(changed, image))
    assert sum(made) >= 2 * (OPERATIONS - 2), "all but the identity (and autocontrast of a full range) change it"
    assert torch.equal(rand_operation(image[:1], 7.5 / OPERATIONS, 0.1, 1.0), image[:1]), "grey has no saturation"
    both = Augment(rand_operations=2, rand_magnitude=0.3)
    draws = both.draw(3, torch.Generator().manual_seed(0))
    assert draws.shape == (3, 16) and both.per_image
    assert Augment(shift=1).draw(3, torch.Generator()).shape == (3, 12), "nothing else is drawn when it is off"


def test_the_loss_is_mixed_with_the_divergence_from_the_trained_net():
    torch.manual_seed(0)
    pixels, logits = torch.randn(4, 5), torch.randn(4, 3, requires_grad=True)
    trained = Distillation(nn.Linear(5, 3), 0.25, 3.0, "float32")
    mixed = trained.loss(torch.tensor(2.0), logits, pixels)
    p, q = (trained.outputs(pixels) / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(dim=1).mean() * 9
    torch.testing.assert_close(mixed, 0.75 * 2.0 + 0.25 * divergence)
    assert not trained.net.weight.requires_grad and not trained.net.training


def test_a_net_learns_from_an_earlier_training_whose_content_is_part_of_its_identity(
    net, tiny_space, tiny_data, tmp_path
):
    first = train(net.arch, tiny_space, tiny_data, TrainConfig(**PLAIN), tmp_path / "first")
    settings = {**PLAIN, "epochs": 1, "distil_from": str(first.checkpoint), "distil_weight": 0.9}
    second = train(net.arch, tiny_space, tiny_data, TrainConfig(**settings), tmp_path / "second")
    assert second.history[0]["train_loss"] != first.history[0]["train_loss"]
    identity = load_checkpoint(tmp_path / "second/train.ckpt", "training")["identity"]
    assert len(identity["distilled"]) == 64
    assert "distilled" not in load_checkpoint(tmp_path / "first/train.ckpt", "training")["identity"]
    with pytest.raises(StorageError, match=r"missing\.pt"):
        train(net.arch, tiny_space, tiny_data, TrainConfig(**PLAIN, distil_from="missing.pt"), tmp_path / "third")


def test_a_model_of_timms_is_distilled_from_with_weights_of_a_file(data, tmp_path):
    import timm

    torch.manual_seed(0)
    name = "mobilenetv3_small_050"
    theirs = timm.create_model(name, num_classes=10, in_chans=1).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    config = TrainConfig(**PLAIN, distil_from=f"timm:{name},{tmp_path / 'weights.pth'}")
    trained = load_distillation(config, data, torch.device("cpu"), "float32")
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(trained.outputs(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert len(distilled_identity(config)["distilled"]) == 64
    wrong = TrainConfig(**PLAIN, distil_from="timm:no_such_model")
    with pytest.raises(UserError, match="timm has no model 'no_such_model'"):
        load_distillation(wrong, data, torch.device("cpu"), "float32")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    broken = TrainConfig(**PLAIN, distil_from=f"timm:{name},{tmp_path / 'other.pth'}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_distillation(broken, data, torch.device("cpu"), "float32")


def test_a_published_model_sees_images_normalised_as_it_was_trained(data):
    pixels = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16)
    seen = Renormalised(nn.Identity(), data, (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))(data.normalise(pixels))
    torch.testing.assert_close(seen, (pixels / 255 - 0.4) / 0.2, rtol=1e-4, atol=1e-5)


def test_a_trained_net_of_other_classes_or_channels_is_refused(tiny_space, data, tmp_path, monkeypatch):
    from tvmfbnet.training import distilled_net as module

    arch = parse_arch("k3_e1/k3_e1,skip", tiny_space)
    config = TrainConfig(**PLAIN, distil_from="net.pt")
    for net, said in (
        (build_net(arch, tiny_space.with_classes(7)), "tells 7 classes apart, the data set has 10"),
        (nn.Sequential(nn.Conv2d(3, 10, 28), nn.Flatten()), "takes no 1x28x28 images"),
    ):
        monkeypatch.setattr(module, "_net", lambda spec, data, shape, net=net: net)
        with pytest.raises(UserError, match=said):
            load_distillation(config, data, torch.device("cpu"), "float32")


def test_settings_that_do_not_fit_are_refused():
    for settings, said in (
        ({"epochs": 30, "decay_epochs": [20, 10]}, "must rise"),
        ({"epochs": 30, "decay_epochs": [30]}, "stay below epochs"),
        ({"batch_size": 4, "accumulate": 8}, "at most batch_size"),
    ):
        with pytest.raises(ConfigError, match=said):
            validate(TrainConfig, settings, "training settings")


def test_the_shipped_recipes_are_valid_and_the_papers_has_its_steps(tmp_path):
    assert list_training_recipes() == ["paper", "short"]
    recipes = {name: TrainConfig(**read_yaml(training_recipe(name))) for name in list_training_recipes()}
    assert (recipes["paper"].epochs, recipes["paper"].decay_epochs) == (360, (90, 180, 270))
    (tmp_path / "mine.txt").write_text("epochs: 3\n")
    assert training_recipe(str(tmp_path / "mine.txt")) == tmp_path / "mine.txt"
    with pytest.raises(UserError, match=r"unknown training recipe 'papr': did you mean paper\?"):
        training_recipe("papr")
