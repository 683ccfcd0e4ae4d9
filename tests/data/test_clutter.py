"""Cluttered Fashion-MNIST: reproducible images, labels that stay with their objects, options that are checked."""

import subprocess
import sys

import pytest
import torch
from test_datasets import fashion

from tvmfbnet.data.clutter import render
from tvmfbnet.data.clutter_options import ClutterOptions
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.places import check_data, relocated
from tvmfbnet.errors import DataError

ONE_SQUARE = torch.full((1, 28, 28), 200, dtype=torch.uint8)


def drawn(count=50, originals=ONE_SQUARE, height=64, width=64, **options):
    return render(originals, torch.zeros(count, dtype=torch.int64), ClutterOptions(**options), height, width, stream=0)


def test_an_object_has_the_asked_size_and_lies_whole_within_the_image():
    images = drawn(pieces=0, smallest=0.5, largest=0.5, turn=0.0)
    areas = (images > 100).flatten(1).sum(1)
    assert ((areas - 32 * 32).abs() < 80).all()
    rows = {int(image[0].any(1).nonzero()[0]) for image in images}
    assert len(rows) > 10  # at many places


def test_objects_turn_by_up_to_the_asked_angle():
    upright = drawn(pieces=0, smallest=0.4, largest=0.4, turn=0.0)
    turned = drawn(pieces=0, smallest=0.4, largest=0.4, turn=45.0)

    def widths(images):
        return (images > 100).any(2).flatten(1).sum(1)

    assert widths(turned).max() > 1.25 * widths(upright).max()


def test_pieces_of_other_objects_lie_around_it_also_in_images_that_are_not_square():
    alone, cluttered = (drawn(pieces=pieces, height=48, width=80) for pieces in (0, 12))
    assert alone.shape == cluttered.shape == (50, 1, 48, 80)
    assert ((cluttered > 0).float().mean() - (alone > 0).float().mean()) > 0.1
    assert (cluttered >= alone).all()  # the object itself stays visible


def test_labels_stay_with_their_objects_and_the_test_set_shows_every_object_once(tmp_path):
    data = load_data(f"cluttered_fashion_mnist:{fashion(tmp_path)}?images=40&pieces=3", 64, 64, 1, 10)
    assert len(data.train) == 40 and data.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert set(data.train.labels.tolist()) <= set(range(10)) and len(set(data.train.labels.tolist())) > 5
    assert data.class_names[9] == "Ankle boot"


def test_more_views_show_every_test_object_again_and_differently(tmp_path):
    place = f"cluttered_fashion_mnist:{fashion(tmp_path)}?images=20"
    once, thrice = (load_data(spec, 64, 64, 1) for spec in (place, f"{place}&views=3"))
    assert thrice.test.labels.tolist() == 3 * once.test.labels.tolist()
    assert torch.equal(thrice.train.pixels, once.train.pixels)
    assert not torch.equal(thrice.test.pixels[:5], thrice.test.pixels[5:10])
    assert once.fingerprint != thrice.fingerprint
    assert load_data(f"{place}&views=1", 64, 64, 1).fingerprint == once.fingerprint


def test_the_same_spec_gives_the_same_images_and_another_one_others(tmp_path):
    place = f"cluttered_fashion_mnist:{fashion(tmp_path)}?images=20"
    first, same, other = (load_data(spec, 64, 64, 1) for spec in (place, place, f"{place}&seed=1"))
    assert torch.equal(first.train.pixels, same.train.pixels) and first.fingerprint == same.fingerprint
    assert not torch.equal(first.train.pixels, other.train.pixels) and first.fingerprint != other.fingerprint
    assert not torch.equal(first.train.pixels[:5], first.test.pixels[:5])
    assert load_data(place, 72, 72, 1).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("images=many", "images=many is not a number"),
        ("images=5", "images must lie in 10 to"),
        ("pieces=-1", "pieces must lie"),
        ("views=0", "views must lie in 1 to 100"),
        ("turn=nan", "turn must lie"),
        ("smallest=0.8", "above largest"),
        ("colour=1", "no option 'colour'"),
        ("seed", "seed= is not a number"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_read(tmp_path, options, text):
    with pytest.raises(DataError, match=text):
        check_data(f"cluttered_fashion_mnist:{fashion(tmp_path)}?{options}", 64, 64, 1, 10)


def test_what_does_not_fit_the_space_is_refused(tmp_path):
    spec = f"cluttered_fashion_mnist:{fashion(tmp_path)}"
    with pytest.raises(DataError, match="at least 28x28"):
        check_data(spec, 24, 64, 1, 10)
    with pytest.raises(DataError, match="1 channel"):
        check_data(spec, 64, 64, 3, 10)
    with pytest.raises(DataError, match="only an imagefolder takes a subset"):
        check_data(f"{spec}?classes=3", 64, 64, 1, 10)
    with pytest.raises(DataError, match="takes no options"):
        check_data("fashion_mnist?images=20", 28, 28, 1, 10)


def test_a_moved_data_set_keeps_its_options():
    assert relocated("cluttered_fashion_mnist:/old?images=50&seed=2", "/new") == (
        "cluttered_fashion_mnist:/new?images=50&seed=2"
    )


def test_checking_loads_no_torch(tmp_path):
    code = (
        "import sys; from tvmfbnet.data.places import check_data; "
        f"check_data('cluttered_fashion_mnist:{fashion(tmp_path)}?images=50', 64, 64, 1, 10); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
