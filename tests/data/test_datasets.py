import copy
import gzip
import shutil
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")
NO_AUGMENT = Augment()


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
    content = header + array.numpy().tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion(folder, end=".gz", count=12):
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for part, n in (("train", count), ("t10k", 5)):
        pixels = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", torch.arange(n, dtype=torch.uint8) % 10)
    return folder


def take(images, indices, augment=NO_AUGMENT, seed=0):
    return images.take(torch.tensor(indices), augment, torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_the_debian_packages_fashion_mnist_is_found_and_normalised():
    data = load_data("fashion_mnist", 32, 32, 1, 10)
    assert (len(data.train), len(data.test), data.classes) == (60000, 10000, 10)
    inner = data.train.pixels[:, :, 2:-2, 2:-2]
    values = data.normalise(inner[:10000])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_images_are_padded_evenly_and_keep_their_labels(tmp_path):
    data = load_data(f"fashion_mnist:{fashion(tmp_path)}", 32, 34, 1)
    batch = take(data.train, [3, 0])
    assert batch.shape == (2, 1, 32, 34) and batch.dtype == torch.uint8
    assert batch[:, :, :2].sum() == batch[:, :, -2:].sum() == batch[..., :3].sum() == batch[..., -3:].sum() == 0
    assert data.train.labels[[3, 0]].tolist() == [3, 0]


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw"])
def test_the_environment_variable_names_a_folder_of_data_sets(tmp_path, monkeypatch, place):
    fashion(tmp_path / place, end="" if "raw" in place else ".gz", count=13)
    monkeypatch.setenv("TVMFBNET_DATA", str(tmp_path))
    monkeypatch.setattr("tvmfbnet.data.places.SYSTEM_FASHION_MNIST", str(tmp_path / "absent"))
    assert len(load_data("fashion_mnist", 28, 28, 1).train) == 13


def test_a_missing_data_set_says_how_to_provide_it(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load_data(f"fashion_mnist:{tmp_path}", 32, 32, 1)
    with pytest.raises(DataError, match="cifar-10-binary"):
        load_data(f"cifar10:{tmp_path}", 32, 32, 3)
    with pytest.raises(DataError, match="missing"):
        load_data(f"imagefolder:{tmp_path}", 32, 32, 3)


# Names of their own: gzip writes the time into its bytes, and two test processes must collect the same names.
@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"\0\0\x08\x03\0\0"), gzip.compress(b"PNG...")],
    ids=["empty", "no gzip", "short header", "other magic"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (fashion(tmp_path) / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match="train-images"):
        load_data(f"fashion_mnist:{tmp_path}", 32, 32, 1)


def test_labels_of_another_file_are_noticed(tmp_path):
    fashion(tmp_path)
    shutil.copy(tmp_path / "t10k-labels-idx1-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match="do not belong together"):
        load_data(f"fashion_mnist:{tmp_path}", 32, 32, 1)


def test_a_data_set_that_does_not_fit_the_space_is_refused(tmp_path):
    spec = f"fashion_mnist:{fashion(tmp_path)}"
    with pytest.raises(DataError, match="channels"):
        load_data(spec, 32, 32, 3)
    with pytest.raises(DataError, match="larger"):
        load_data(spec, 20, 32, 1)
    with pytest.raises(DataError, match="10 classes but the space classifies 7"):
        load_data(spec, 32, 32, 1, 7)
    with pytest.raises(DataError, match="unknown data set"):
        load_data("imagenet", 32, 32, 1)


def test_cifar_binary_batches_are_read(tmp_path):
    home = tmp_path / "cifar-10-batches-bin"
    home.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        (home / name).write_bytes(bytes([number]) + bytes([7]) * 1024 + bytes([8]) * 1024 + bytes([9]) * 1024)
    data = load_data(f"cifar10:{tmp_path}", 32, 32, 3, 10)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4] and data.test.labels.tolist() == [5]
    assert take(data.train, [0])[0, :, 5, 5].tolist() == [7, 8, 9]
    (home / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="test_batch"):
        load_data(f"cifar10:{tmp_path}", 32, 32, 3)


def test_image_folders_are_scaled_and_damaged_images_are_named(tmp_path):
    for part in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (50, 40), (100 * label, 10, 20)).save(tmp_path / part / name / "a.png")
    data = load_data(f"imagefolder:{tmp_path}", 16, 24, 3, 2)
    assert take(data.train, [0, 1]).shape == (2, 3, 16, 24)
    assert take(data.train, [1], Augment(shift=1, flip=True))[0, :, 8, 8].tolist() == [100, 10, 20]
    assert take(load_data(f"imagefolder:{tmp_path}", 16, 24, 1).train, [0]).shape == (1, 1, 16, 24)
    (tmp_path / "train" / "dog" / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"dog/a\.png"):
        take(data.train, [1])
    shutil.rmtree(tmp_path / "val" / "dog")
    with pytest.raises(DataError, match="same classes"):
        load_data(f"imagefolder:{tmp_path}", 16, 24, 3)


def class_folders(home, names, images=3):
    for part in ("train", "val"):
        for number, name in enumerate(names):
            (home / part / name).mkdir(parents=True)
            for index in range(images):
                image = Image.effect_noise((40, 30), 60 + number).convert("RGB")
                image.save(home / part / name / f"{index}.png")
    return home


def test_a_subset_of_the_classes_may_stand_in_for_them_all(tmp_path):
    names = [f"class{number:02}" for number in range(12)]
    spec = f"imagefolder:{class_folders(tmp_path, names, 1)}"
    five = load_data(f"{spec}?classes=5", 16, 16, 3, 12)
    assert (five.classes, len(five.train), five.train.labels.tolist()) == (5, 5, [0, 1, 2, 3, 4])
    chosen = [file.parent.name for file in five.train.files]
    assert chosen == [file.parent.name for file in load_data(f"{spec}?classes=5", 16, 16, 3, 12).train.files]
    assert chosen != names[:5], "not just the first"
    (tmp_path / "mine.txt").write_text("class07\nclass03\n")
    named = load_data(f"{spec}?classes={tmp_path / 'mine.txt'}", 16, 16, 3, 12)
    assert [file.parent.name for file in named.test.files] == ["class03", "class07"]
    (tmp_path / "mine.txt").write_text("class07\ncat\n")
    for subset, said in (("1", "take 2 to 12"), ("13", "take 2 to 12"), ("none.txt", "neither"), ("", "neither")):
        with pytest.raises(DataError, match=said):
            load_data(f"{spec}?classes={subset}", 16, 16, 3, 12)
    with pytest.raises(DataError, match="first 'cat'"):
        load_data(f"{spec}?classes={tmp_path / 'mine.txt'}", 16, 16, 3, 12)
    with pytest.raises(DataError, match="only an imagefolder"):
        load_data(f"fashion_mnist:{fashion(tmp_path / 'f')}?classes=3", 32, 32, 1, 10)
    with pytest.raises(DataError, match="5 classes but the space classifies 4"):
        load_data(f"{spec}?classes=5", 16, 16, 3, 4)


def test_every_change_alters_images_and_is_settled_by_its_draws(tmp_path):
    data = load_data(f"imagefolder:{class_folders(tmp_path, ['a', 'b'], 8)}", 24, 24, 3)
    indices = torch.arange(16)
    for change in ({"shift": 1}, {"flip": True}, {"colour": 0.5}, {"trivial": True}, {"erase": 1.0}):
        augment = Augment(**change)
        draws = augment.draw(16, torch.Generator().manual_seed(1))
        changed = data.train.load(indices, augment, draws)
        plain = data.train.load(indices, NO_AUGMENT, None)
        different = [not torch.equal(a, b) for a, b in zip(changed, plain, strict=True)]
        assert sum(different) >= 4 and changed.dtype == torch.uint8, change
        backwards = data.train.load(indices.flip(0), augment, draws.flip(0))
        assert torch.equal(backwards.flip(0), changed), "an image's change depends on its own numbers alone"
    erased = data.train.load(indices, augment, draws)
    assert all(int((image.sum(dim=0) == 0).sum()) > 60 for image in erased), "a rectangle is blank"


def test_a_loader_of_files_goes_on_exactly_where_it_was_saved_although_it_reads_ahead(tmp_path):
    data = load_data(f"imagefolder:{class_folders(tmp_path, ['a', 'b'], 8)}", 16, 16, 3)
    first = Loader(data, data.train, torch.arange(16), 4, Augment(shift=1, trivial=True), seed=1)
    for _ in range(3):
        first.next()
    state = copy.deepcopy(first.state_dict())
    expected = [first.next() for _ in range(5)]
    second = Loader(data, data.train, torch.arange(16), 4, Augment(shift=1, trivial=True), seed=9)
    second.next()
    second.load_state_dict(state)
    for pixels, labels in expected:
        again = second.next()
        assert torch.equal(pixels, again[0]) and torch.equal(labels, again[1])
    assert second.waited_seconds > 0
