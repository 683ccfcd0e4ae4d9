"""Generated images: as many as asked for, the same each time, at any size, and refused where their spec is wrong."""

import pytest
import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.data.places import DataSpec, check_data, classes_of
from tvmfbnet.errors import DataError

SPEC = "generated?images=300&classes=7"


def test_they_have_the_shape_of_the_space_and_labels_of_every_class():
    data = load_data(SPEC, 20, 24, 3, 7)
    assert len(data.train) == 300 and data.classes == classes_of(SPEC) == 7
    assert data.train.labels.bincount().tolist() == [43] * 6 + [42]
    pixels, labels = Loader(data, data.train, torch.arange(300), 50, Augment(0, True), 0).next()
    assert pixels.shape == (50, 3, 20, 24) and len(labels) == 50
    assert abs(float(pixels.mean())) < 0.1 and abs(float(pixels.std()) - 1) < 0.15


def test_images_differ_and_are_the_same_each_time():
    first, second = (load_data(SPEC, 16, 16, 1, 7) for _ in range(2))
    whole = torch.arange(300)
    images = first.train.load(whole, Augment(), None)
    assert torch.equal(images, second.train.load(whole, Augment(), None))
    assert len({image.numpy().tobytes() for image in images}) == 300
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != load_data(f"{SPEC}&seed=1", 16, 16, 1, 7).fingerprint
    assert not torch.equal(images[:30], first.test.load(whole[:30], Augment(), None))


def test_a_subset_of_classes_comes_first_or_last():
    assert DataSpec.of("generated?classes=100&images=500").options == {"classes": "100", "images": "500"}
    assert DataSpec.of("generated").subset is DataSpec.of(SPEC).subset is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("generated?images=5", "images must be a whole number, 10 to 10,000,000"),
        ("generated?images=1e4", "images must be a whole number"),
        ("generated?classes=1", "classes must be a whole number, 2 to"),
        ("generated?images=10&classes=11", r"fewer images \(10\) than classes \(11\)"),
        ("generated?colour=1", "no option 'colour'; there are images, classes, seed"),
        ("generated:/data", "generated images lie in no folder"),
    ],
)
def test_a_wrong_spec_is_one_line(spec, said):
    with pytest.raises(DataError, match=said):
        check_data(spec, 28, 28, 1)


def test_another_number_of_classes_than_the_spaces_is_refused():
    with pytest.raises(DataError, match="has 7 classes but the space classifies 10"):
        check_data(SPEC, 28, 28, 1, 10)
