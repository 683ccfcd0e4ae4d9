"""Images with boxes in COCO's layout: boxes follow their images, and what is missing is one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.data.places import check_data, classes_of, task_of, with_task
from tvmfbnet.errors import DataError


def write(folder, name, count, **changes):
    """Dark images of 60x40 pixels, each with one bright rectangle, its box, and a crowd's, which is left out."""
    (folder / name).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, boxes = [], []
    for number in range(count):
        pixels = np.zeros((40, 60, 3), np.uint8)
        left, top = 3 + 4 * number, 2 + 2 * number
        pixels[top : top + 12, left : left + 18] = 250
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
        images.append({"id": 100 + number, "file_name": f"{number}.png", "width": 60, "height": 40})
        box = {"image_id": 100 + number, "category_id": 7 if number % 2 else 3, "bbox": [left, top, 18, 12]}
        boxes += [box, {**box, "iscrowd": 1, "category_id": 3}]
    kinds = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    content = {"images": images, "annotations": boxes, "categories": kinds, **changes}
    (folder / f"annotations/instances_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train2017", 8)
    write(tmp_path, "val2017", 3)
    return tmp_path


def extents(images):
    """Corners of what is bright, as shares."""
    corners = []
    for image in images[:, 0] > images[:, 0].float().amax() / 2:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        corners.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return torch.tensor(corners) / 64


def test_a_task_may_be_named_beside_the_data(folder):
    assert with_task("fashion_scenes", "detection") == "fashion_scenes?task=detection"
    assert with_task("fashion_scenes?images=20", "regression") == "fashion_scenes?images=20&task=regression"
    assert with_task(f"coco:{folder}", "multi_label") == f"coco:{folder}?task=multi_label"
    for same in ("fashion_scenes?task=detection", f"coco:{folder}?task=detection"):
        assert with_task(same, "detection") == with_task(same, None) == same
    assert with_task("fashion_mnist", "classification") == "fashion_mnist"
    for spec, task, problem in (
        ("fashion_mnist", "detection", "fashion_mnist are for classification, not for detection"),
        ("fashion_scenes?task=regression", "detection", "are for regression, not for detection"),
        ("fashion_scenes", "juggling", "there is no task 'juggling'"),
    ):
        with pytest.raises(DataError, match=problem):
            with_task(spec, task)


def test_boxes_lie_where_the_images_show_something(folder):
    spec = f"coco:{folder}"
    data = load_data(spec, 64, 64, 3, 3)
    assert (len(data.train), len(data.test), data.task) == (8, 3, "detection") and task_of(spec) == "detection"
    assert data.class_names == ("background", "cat", "dog") and classes_of(spec) == 3
    targets = data.train.unchanged_targets(torch.arange(8))
    assert targets.shape == (8, 1, 5) and targets[:, 0, 0].tolist() == [1, 2] * 4
    pixels = data.train.load(torch.arange(8), Augment(), None)
    assert torch.allclose(extents(pixels), targets[:, 0, 1:], atol=1.5 / 64), "the whole image, whatever its shape"


def test_boxes_follow_crops_and_mirrors_and_go_where_their_centre_does(folder):
    data = load_data(f"coco:{folder}", 64, 64, 3, 3)
    loader = Loader(data, data.train, torch.arange(8), 8, Augment(shift=2, flip=True), 0)
    gone = 0
    for _ in range(4):
        pixels, targets = loader.next()
        present = targets[:, 0, 0] > 0
        gone += int((~present).sum())
        assert torch.allclose(extents(pixels[present] - pixels.min()), targets[present, 0, 1:], atol=2 / 64)
    assert 0 < gone < 32
    with pytest.raises(DataError, match="augment_trivial turns and shears images"):
        Loader(data, data.train, torch.arange(8), 8, Augment(trivial=True), 0).next()


def test_the_same_boxes_say_which_classes_an_image_has(folder):
    data = load_data(f"coco:{folder}?task=multi_label", 64, 64, 3, 2)
    assert data.task == "multi_label" and data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [[1.0, 0.0], [0.0, 1.0]] * 4


def test_the_content_of_the_boxes_is_part_of_the_identity(folder):
    before = load_data(f"coco:{folder}", 64, 64, 3).fingerprint
    path = folder / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace("18, 12", "17, 12"))
    assert load_data(f"coco:{folder}", 64, 64, 3).fingerprint != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": [{"id": 3, "name": "cat"}]}, "no boxes in COCO's form .*KeyError 7"),
        ({"annotations": [{"image_id": 100}]}, "no boxes in COCO's form"),
        ({"images": [{"id": 1, "file_name": "x.png", "width": 1, "height": 1}], "annotations": []}, "1 of 1 images"),
        ({"images": [], "annotations": []}, "names 0 images and 2 categories"),
        ({"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "fox"}]}, "have other categories"),
    ],
)
def test_a_file_that_is_damaged_or_does_not_fit_is_one_line(tmp_path, changes, said):
    write(tmp_path, "train", 2)
    write(tmp_path, "val", 2, **changes)
    with pytest.raises(DataError, match=said):
        check_data(f"coco:{tmp_path}", 64, 64, 3)


def test_files_that_are_missing_and_options_that_are_not_there_are_told(folder):
    with pytest.raises(DataError, match="its only option is task, detection or multi_label"):
        check_data(f"coco:{folder}?task=regression", 64, 64, 3)
    with pytest.raises(DataError, match="coco needs a folder: coco:DIR"):
        check_data("coco", 64, 64, 3)
    (folder / "val2017").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="are missing: neither"):
        check_data(f"coco:{folder}", 64, 64, 3)
    (folder / "annotations/instances_val2017.json").unlink()
    with pytest.raises(DataError, match=r"holds 0 files instances_val\*\.json"):
        check_data(f"coco:{folder}", 64, 64, 3)
