"""Folders of images with masks: read in both layouts, moved together, and refused in one line where they do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.data.places import check_data, classes_of, task_of
from tvmfbnet.errors import DataError


def pair(number):
    """A dark photo with a bright square, and its mask: 1 on the square, 0 elsewhere, 255 in the first row."""
    photo, mask = np.zeros((40, 48, 3), np.uint8), np.zeros((40, 48), np.uint8)
    top, left = 4 + number, 6 + 2 * number
    photo[top : top + 16, left : left + 16], mask[top : top + 16, left : left + 16] = 250, 1
    mask[0] = 255
    return Image.fromarray(photo), Image.fromarray(mask)


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 8), ("val", 3)):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for number in range(count):
            photo, mask = pair(number)
            photo.save(tmp_path / part / "images" / f"{number}.png")
            mask.save(tmp_path / part / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    return tmp_path


def load(folder, channels=3):
    return load_data(f"maskfolder:{folder}", 32, 32, channels, 2)


def test_images_come_with_masks_of_their_size_and_a_pixel_that_is_not_judged_stays_so(folder):
    data = load(folder)
    assert (len(data.train), len(data.test), data.task) == (8, 3, "segmentation")
    assert data.class_names == ("background", "square") and classes_of(f"maskfolder:{folder}") == 2
    assert task_of(f"maskfolder:{folder}") == "segmentation"
    pixels, masks = data.test.load(torch.arange(3), Augment(), None), data.test.unchanged_targets(torch.arange(3))
    assert masks.shape == (3, 32, 32) and masks.dtype == torch.uint8 and set(masks.unique().tolist()) <= {0, 1, 255}
    assert ((pixels[:, 0] > 125) == (masks == 1)).float().mean() > 0.97
    assert load(folder, channels=1).train.load(torch.tensor([0]), Augment(), None).shape == (1, 1, 32, 32)


def test_a_mask_is_cropped_and_mirrored_as_its_image_is(folder):
    data = load(folder)
    pixels, masks = Loader(data, data.train, torch.arange(8), 8, Augment(shift=2, flip=True), 0).next()
    bright = pixels[:, 0] > 0.5 * (pixels.max() + pixels.min())
    assert ((bright == (masks == 1)) | (masks == 255)).float().mean() > 0.95
    assert not torch.equal(masks, data.train.unchanged_targets(torch.arange(8)))
    with pytest.raises(DataError, match="augment_trivial turns and shears images"):
        Loader(data, data.train, torch.arange(8), 8, Augment(trivial=True), 0).next()


def test_the_content_of_masks_is_part_of_the_identity(folder):
    before = load(folder).fingerprint
    pair(7)[1].save(folder / "train/masks/0.png")
    assert load(folder).fingerprint != before


def test_the_layout_of_the_oxford_pets_is_read(tmp_path):
    for place in ("images", "annotations/trimaps"):
        (tmp_path / place).mkdir(parents=True)
    for number in range(4):
        photo, mask = pair(number)
        photo.save(tmp_path / f"images/cat_{number}.jpg")
        trimap = np.where(np.asarray(mask) == 1, 1, 2).astype(np.uint8)
        trimap[0] = 3
        Image.fromarray(trimap).save(tmp_path / f"annotations/trimaps/cat_{number}.png")
    (tmp_path / "annotations/trainval.txt").write_text("# name class species breed\ncat_0 1 1 1\ncat_1 1 1 1\n")
    (tmp_path / "annotations/test.txt").write_text("cat_2 1 1 1\ncat_3 1 1 1\n")
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.class_names) == (2, 2, ("background", "pet"))
    assert set(data.train.unchanged_targets(torch.arange(2)).unique().tolist()) <= {0, 1, 255}
    (tmp_path / "annotations/test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt is missing"):
        load(tmp_path)


def damaged(folder, how):
    masks = folder / "train/masks"
    if how == "no names":
        (folder / "classes.txt").unlink()
    elif how == "one name":
        (folder / "classes.txt").write_text("square\n")
    elif how == "no mask":
        (masks / "3.png").unlink()
    elif how == "no masks":
        masks.rename(folder / "elsewhere")
    elif how == "no images":
        for file in (folder / "val/images").iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no names", r"classes\.txt is missing or no text"),
        ("one name", "names 1 classes; name 2 to 255"),
        ("no mask", r"missing: .*3\.png; every image needs a mask"),
        ("no masks", "train lacks images or masks"),
        ("no images", "holds no images"),
    ],
)
def test_what_is_missing_is_told_before_an_image_is_read(folder, how, said):
    damaged(folder, how)
    with pytest.raises(DataError, match=said):
        check_data(f"maskfolder:{folder}", 32, 32, 3)


def test_a_mask_that_does_not_fit_is_told_when_it_is_read(folder):
    masks, first = folder / "train/masks", torch.tensor([0])
    for image, said in (
        (Image.new("L", (48, 40), 7), "pixels of value 7, which is no class"),
        (Image.new("L", (20, 40)), r"0\.png is 20x40, its image 48x40"),
        (Image.new("RGB", (48, 40)), "has colours"),
    ):
        image.save(masks / "0.png")
        with pytest.raises(DataError, match=said):
            load(folder).train.unchanged_targets(first)
    (masks / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        load(folder).train.unchanged_targets(first)


def test_a_spec_without_a_folder_and_a_space_of_other_channels_are_refused(folder):
    with pytest.raises(DataError, match=r"maskfolder needs a folder: maskfolder:DIR, with DIR/classes\.txt"):
        check_data("maskfolder", 32, 32, 3)
    with pytest.raises(DataError, match="maskfolder gives 1 or 3 channels but the space takes 2"):
        check_data(f"maskfolder:{folder}", 32, 32, 2)
