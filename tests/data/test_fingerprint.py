"""A data set is known by its content: not by its place, the spelling of its path, its packing or its files' times."""

import gzip
import os
import shutil
import time

import pytest
import torch
from PIL import Image
from test_datasets import fashion

from tvmfbnet.data import fingerprint
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.fingerprint import of_files
from tvmfbnet.data.places import relocated
from tvmfbnet.errors import DataError


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "disk1"
    for part in ("train", "val"):
        for number, name in enumerate(("cat", "dog", "owl")):
            (home / part / name).mkdir(parents=True)
            for index in range(3):
                Image.new("L", (20, 20), 40 * number + 10 * index).save(home / part / name / f"{index}.bmp")
    return home


def of(spec):
    return load_data(spec, 16, 16, 1).fingerprint


def test_every_spelling_of_a_place_and_another_place_are_the_same_data_set(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = of(f"imagefolder:{folder}")
    (tmp_path / "link").symlink_to(folder)
    for spelled in ("disk1", "./disk1/", "disk1/../disk1", "link"):
        assert of(f"imagefolder:{spelled}") == expected
    for file in folder.rglob("*.bmp"):
        os.utime(file, (1, 1))
    shutil.move(folder, tmp_path / "disk2")
    assert of("imagefolder:disk2") == expected
    shutil.copytree("disk2", "elsewhere/disk3")
    shutil.move("elsewhere/disk3/val", "elsewhere/disk3/test")
    assert of("imagefolder:elsewhere/disk3") == expected, "val may be called test"


def renamed(home):
    (home / "train/cat/0.bmp").rename(home / "train/cat/7.bmp")


def removed(home):
    (home / "train/cat/0.bmp").unlink()


def swapped(home):
    """Two files of one size exchange their content."""
    one, other = home / "train/cat/0.bmp", home / "train/dog/0.bmp"
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)


def in_the_test_part(home):
    (home / "val/owl/2.bmp").write_bytes((home / "val/cat/0.bmp").read_bytes())


@pytest.mark.parametrize("change", [renamed, removed, swapped, in_the_test_part])
def test_other_content_is_another_data_set(folder, change):
    before = of(f"imagefolder:{folder}")
    change(folder)
    assert of(f"imagefolder:{folder}") != before


def test_a_subset_of_the_classes_is_known_by_its_classes(folder, tmp_path):
    spec = f"imagefolder:{folder}"
    (tmp_path / "mine.txt").write_text("owl\ncat\n")
    (tmp_path / "same.txt").write_text("cat\nowl\n")
    two = of(f"{spec}?classes={tmp_path / 'mine.txt'}")
    assert two == of(f"{spec}?classes={tmp_path / 'same.txt'}") != of(spec)
    assert of(f"{spec}?classes=3") == of(spec)
    removed(folder.parent / "disk1")
    shutil.rmtree(folder / "train/dog")
    shutil.rmtree(folder / "val/dog")
    (folder / "train/cat/0.bmp").write_bytes((folder / "val/cat/0.bmp").read_bytes())
    assert of(f"imagefolder:{folder}") == two


def test_packed_and_unpacked_files_are_the_same_at_any_size(tmp_path):
    packed, plain = fashion(tmp_path / "packed"), tmp_path / "plain"
    plain.mkdir()
    for file in packed.iterdir():
        (plain / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    data = load_data(f"fashion_mnist:{packed}", 28, 28, 1)
    assert data.fingerprint == load_data(f"fashion_mnist:{plain}", 40, 32, 1).fingerprint
    content = bytearray((plain / "t10k-labels-idx1-ubyte").read_bytes())
    content[-1] += 1
    (plain / "t10k-labels-idx1-ubyte").write_bytes(content)
    assert data.fingerprint != load_data(f"fashion_mnist:{plain}", 28, 28, 1).fingerprint


def test_of_many_files_all_names_and_sizes_count_and_some_contents(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "SAMPLED_FILES", 4)
    (tmp_path / "a").mkdir()
    files = [tmp_path / f"a/{index:02}.png" for index in range(20)]
    for file in files:
        file.write_bytes(b"12")
    before = of_files(files, tmp_path)
    assert before == of_files(files[::-1], tmp_path)
    seen = set()
    for index, file in enumerate(files):
        file.write_bytes(b"123")
        assert of_files(files, tmp_path) != before, "sizes of all"
        file.write_bytes(b"34")
        if of_files(files, tmp_path) != before:
            seen.add(index)
        file.write_bytes(b"12")
    assert seen == {0, 5, 10, 15}


def test_a_file_costs_well_under_a_millisecond(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "one").write_bytes(b"x")
    files = [tmp_path / f"{index % 100}/{index}.png" for index in range(5000)]
    for file in files:
        os.link(tmp_path / "one", file)
    started = time.process_time()
    of_files(files, tmp_path)
    assert time.process_time() - started < 0.2e-3 * len(files), "ImageNet's 1.3 million take minutes at most"


def test_a_file_that_went_away_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.png"):
        of_files([tmp_path / "gone.png"], tmp_path)


def test_a_new_place_keeps_kind_and_classes():
    assert relocated("imagefolder:/old?classes=5", "/new") == "imagefolder:/new?classes=5"
    assert relocated("imagefolder:/old?classes=5", "imagefolder:/new?classes=6") == "imagefolder:/new?classes=6"
    assert relocated("fashion_mnist", "/new") == "fashion_mnist:/new"
    assert relocated("fashion_mnist:/old", "fashion_mnist") == "fashion_mnist"


def test_images_made_in_memory_have_a_fingerprint_too():
    from tvmfbnet.data.images import ImageData, TensorImages

    images = TensorImages(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3))
    other = TensorImages(torch.ones(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3))
    sets = [ImageData("mine", 3, part, images, (0.5,), (0.2,)) for part in (images, other)]
    assert sets[0].fingerprint != sets[1].fingerprint
