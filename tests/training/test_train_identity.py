"""A training continues on the same data wherever it lies, alone in its folder, and never on a damaged checkpoint."""

import gzip
import json
import shutil
import signal
import time

import pytest
import torch
from forked import UNHEARD, start_command

from tvmfbnet.cli.main import main
from tvmfbnet.errors import DataError, StorageError
from tvmfbnet.files import folder_lock
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.checkpoint import load_checkpoint, save_checkpoint
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train

ARCH = "k3_e1/k3_e3,skip"
TINY = {"epochs": 2, "warmup_epochs": 0.5, "batch_size": 16, "threads": 1, "device": "cpu", "checkpoint_steps": 3}


@pytest.fixture
def arch(tiny_space):
    return parse_arch(ARCH, tiny_space)


@pytest.fixture
def trained(arch, tiny_space, tiny_data, tmp_path):
    """A finished training's folder."""
    train(arch, tiny_space, tiny_data, TrainConfig(**TINY), tmp_path / "out")
    return tmp_path / "out"


def continued(tiny_space, data, out, **changes):
    return train(parse_arch(ARCH, tiny_space), tiny_space, data, TrainConfig(**{**TINY, **changes}), out)


def test_a_data_set_that_moved_continues_and_another_one_is_refused(trained, tiny_space, tiny_data, tmp_path):
    before = (trained / "history.json").read_text()
    shutil.move(tmp_path / "images", tmp_path / "moved")
    result = continued(tiny_space, f"fashion_mnist:{tmp_path}/moved/", trained)
    assert json.loads(before) == list(result.history), "nothing was trained again"
    images = tmp_path / "moved/t10k-images-idx3-ubyte.gz"
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    content = bytearray(gzip.decompress(images.read_bytes()))
    content[-1] ^= 1
    (tmp_path / "other" / images.name).write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=r"other is not the data set that .*train\.ckpt was made with .*--data"):
        continued(tiny_space, f"fashion_mnist:{tmp_path}/other", trained)


def test_another_trainings_folder_is_refused_before_the_data_set_is_read(trained, tiny_space, tiny_data, tmp_path):
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(
        StorageError, match=r"train\.ckpt belongs to a run with other settings \(lr was 0\.2, now 0\.1\)"
    ):
        continued(tiny_space, tiny_data, trained, lr=0.1)
    with folder_lock(trained, "a training"), pytest.raises(StorageError, match="a training is already active in"):
        continued(tiny_space, tiny_data, trained)
    with pytest.raises(DataError, match="get the file again"):
        continued(tiny_space, tiny_data, trained)


def test_a_space_is_the_same_under_another_name_and_another_one_under_the_same(
    trained, tiny_space_file, tiny_data, tmp_path
):
    (tmp_path / "renamed.yaml").write_text("description: the same\n" + tiny_space_file.read_text())
    continued(load_space(str(tmp_path / "renamed.yaml")), tiny_data, trained)
    tiny_space_file.write_text(tiny_space_file.read_text().replace("last_channels: 8", "last_channels: 16"))
    with pytest.raises(StorageError, match="space had other content"):
        continued(load_space(str(tiny_space_file)), tiny_data, trained)


def test_a_checkpoint_of_an_earlier_version_continues_under_the_name_it_knows(trained, tiny_space, tiny_data, tmp_path):
    saved = load_checkpoint(trained / "train.ckpt", "training")
    identity = {**saved["identity"], "data": tiny_data, "space": tiny_space.to_dict()}
    del identity["precision"]
    save_checkpoint(trained / "train.ckpt", "training", {"identity": identity, "trainer": saved["trainer"]})
    continued(tiny_space, tiny_data, trained)
    with pytest.raises(DataError, match=r"earlier version.*give --data fashion_mnist:.*images"):
        continued(tiny_space, tiny_data + "/", trained)


def test_two_trainings_in_one_folder_are_refused_and_a_killed_ones_leftovers_are_cleared(
    tiny_space, tiny_space_file, tiny_data, tmp_path
):
    out = tmp_path / "out"
    command = ["train", ARCH, "--space", str(tiny_space_file)]
    command += ["--data", tiny_data, "--out", str(out), "--epochs", "100000", "--threads", "1", "--device", "cpu"]
    first = start_command(command, out=UNHEARD)
    try:
        deadline = time.monotonic() + 120
        while not (out / "train.ckpt").exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        before = {path.name for path in out.iterdir() if not path.name.endswith(".tmp")}
        with pytest.raises(StorageError, match=r"a training is already active in .*out in another process"):
            continued(tiny_space, tiny_data, out)
        assert before <= {path.name for path in out.iterdir()}
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (out / "train.ckpt").unlink()
    for name in (".train.ckpt.0123abcd.tmp", ".net.pt.x_y.tmp", ".mine.tmp"):
        (out / name).write_bytes(b"half")
    continued(tiny_space, tiny_data, out)
    assert sorted(p.name for p in out.iterdir()) == [".lock", ".mine.tmp", "history.json", "net.pt", "train.ckpt"]


NET_DAMAGES = {
    "arch is no text": {"arch": 5},
    "arch is of another space": {"arch": "k9_e9/skip"},
    "arch is another one": {"arch": "k3_e3/k3_e3,skip"},
    "space is no space": {"space": {"layers": [1]}},
    "space is a text": {"space": "tiny"},
    "weights of another net": {"state_dict": {"stem.conv.weight": torch.zeros(1)}},
    "weights are no tensors": {"state_dict": {"stem.conv.weight": "many"}},
    "accuracy is no number": {"test_accuracy": "high"},
    "accuracy is no share": {"test_accuracy": float("nan")},
    "data is a list": {"data": ["a"]},
    "more than there should be": {"extra": 1},
}


@pytest.mark.parametrize("damage", NET_DAMAGES.values(), ids=NET_DAMAGES)
def test_a_damaged_net_is_one_line_that_names_the_file(trained, damage):
    saved = load_checkpoint(trained / "net.pt", "net")
    save_checkpoint(trained / "net.pt", "net", {**saved, **damage})
    with pytest.raises(StorageError, match=r"net\.pt is damaged or of another version .*train it again") as caught:
        load_net(trained / "net.pt")
    assert "\n" not in str(caught.value)


def moved(state, *path, value):
    """The state with one value of it, deep inside, replaced."""
    first, *inner = path
    changed = dict(state) if isinstance(state, dict) else list(state)
    changed[first] = moved(state[first], *inner, value=value) if inner else value
    return changed


STATE_DAMAGES = {
    "steps are a text": (("done_steps",), "7"),
    "steps are negative": (("done_steps",), -1),
    "more steps than there are": (("done_steps",), 10**9),
    "steps without their history": (("done_steps",), 3),
    "a sum is a text": (("sums", "loss"), "big"),
    "history of something else": (("history", 0), {"epoch": 1}),
    "learning rate of another world": (("history", 0, "lr"), float("inf")),
    "no order": (("batches", "order"), torch.zeros(3, 3)),
    "an order of other images": (("batches", "order"), torch.arange(120) + 1),
    "a position beyond the order": (("batches", "position"), 10**6),
    "no random state": (("rng", "torch"), torch.zeros(3)),
    "a random state out of bounds": (("rng", "numpy", 2), 10**9),
    "moments of another net": (("optimiser", "state", 0, "momentum_buffer"), torch.zeros(7)),
    "moments by another name": (("optimiser", "state", 0), {"exp_avg": torch.zeros(7)}),
    "moments of nothing": (("optimiser", "state", 999), {}),
    "weights of another net": (("net", "stem.conv.weight"), torch.zeros(1)),
    "weights that are none": (("net", "stem.conv.weight"), None),
    "no moving average": (("ema",), None),
}


@pytest.mark.parametrize(("path", "value"), STATE_DAMAGES.values(), ids=STATE_DAMAGES)
def test_a_checkpoint_with_a_wrong_value_anywhere_is_one_line(trained, tiny_space, tiny_data, path, value):
    saved = load_checkpoint(trained / "train.ckpt", "training")
    state = {"identity": saved["identity"], "trainer": moved(saved["trainer"], *path, value=value)}
    save_checkpoint(trained / "train.ckpt", "training", state)
    with pytest.raises(StorageError, match=r"train\.ckpt is damaged or of another version") as caught:
        continued(tiny_space, tiny_data, trained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("identity", [None, 5, [], {}, {"data": 3}])
def test_a_checkpoint_of_nothing_known_is_one_line(trained, tiny_space, tiny_data, identity):
    saved = load_checkpoint(trained / "train.ckpt", "training")
    save_checkpoint(trained / "train.ckpt", "training", {"identity": identity, "trainer": saved["trainer"]})
    with pytest.raises((StorageError, DataError), match=r"train\.ckpt"):
        continued(tiny_space, tiny_data, trained)


def test_a_flipped_byte_anywhere_is_found_or_without_effect(trained):
    content = (trained / "net.pt").read_bytes()
    expected = load_net(trained / "net.pt")[0].state_dict()
    generator, refused = torch.Generator().manual_seed(0), 0
    for place in torch.randint(len(content), (150,), generator=generator).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        (trained / "net.pt").write_bytes(changed)
        try:
            tensors = load_net(trained / "net.pt")[0].state_dict()
        except StorageError:
            refused += 1
        else:
            assert all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())
    assert refused > 20
    changed = bytearray(content)
    changed[content.index(expected["head_linear.weight"].numpy().tobytes())] ^= 64
    (trained / "net.pt").write_bytes(changed)
    with pytest.raises(StorageError, match="not a readable checkpoint"):
        load_net(trained / "net.pt")


def test_damage_ends_the_command_with_one_line_and_exit_code_2(trained, tiny_space_file, tiny_data, capsys):
    (trained / "train.ckpt").write_bytes((trained / "train.ckpt").read_bytes()[:-100])
    with pytest.raises(SystemExit) as ended:
        main(["train", ARCH, "--space", str(tiny_space_file), "--data", tiny_data, "--out", str(trained)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "train.ckpt" in error


def test_training_in_bfloat16_learns_and_resumes(arch, tiny_space, tiny_data, tmp_path):
    plain = {"augment_shift": 0, "augment_flip": False, "epochs": 8, "lr": 0.1, "ema_decay": None}
    losses = {}
    for precision in ("float32", "bfloat16"):
        result = continued(tiny_space, tiny_data, tmp_path / precision, **plain, precision=precision)
        losses[precision] = [record["train_loss"] for record in result.history]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"] != losses["float32"] and losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]
    net, _ = load_net(tmp_path / "bfloat16/net.pt")
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float32}
    with pytest.raises(StorageError, match="precision was bfloat16, now float32"):
        continued(tiny_space, tiny_data, tmp_path / "bfloat16", **plain, precision="float32")
