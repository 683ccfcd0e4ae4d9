import copy

import pytest
import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.images import ImageData, TensorImages
from tvmfbnet.data.loader import Loader, in_order, split_indices

STRONG = Augment(shift=2, flip=True)


@pytest.fixture
def data():
    pixels = torch.randint(1, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = TensorImages(pixels, torch.arange(50))
    return ImageData("test", 50, images, images, (0.5,), (0.25,))


def test_a_pass_shows_each_image_once_and_leaves_out_only_the_incomplete_batch(data):
    loader = Loader(data, data.train, torch.arange(50), 8, Augment(), seed=1)
    assert len(loader) == 6
    seen = torch.cat([loader.next()[1] for _ in range(6)]).tolist()
    assert len(seen) == len(set(seen)) == 48
    assert torch.cat([loader.next()[1] for _ in range(6)]).tolist() != seen, "the next pass is shuffled again"


def test_a_restored_loader_goes_on_exactly_there(data):
    loader = Loader(data, data.train, torch.arange(50), 8, STRONG, seed=1)
    for _ in range(4):
        loader.next()
    state = copy.deepcopy(loader.state_dict())
    expected = [loader.next() for _ in range(9)]  # into the next pass
    other = Loader(data, data.train, torch.arange(50), 8, STRONG, seed=99)
    other.load_state_dict(state)
    for pixels, labels in expected:
        again = other.next()
        assert torch.equal(pixels, again[0]) and torch.equal(labels, again[1])


def test_another_seed_gives_another_order(data):
    first, second = (Loader(data, data.train, torch.arange(50), 8, Augment(), seed).next()[1] for seed in (1, 2))
    assert not torch.equal(first, second)


def test_a_shift_moves_images_and_fills_with_zeros(data):
    indices, generator = torch.arange(50), torch.Generator().manual_seed(0)
    plain, moved = data.train.pixels, data.train.take(indices, Augment(shift=2), generator)
    offsets = set()
    for before, after in zip(plain[:, 0], moved[:, 0], strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        fits = [(r, c) for r in range(5) for c in range(5) if torch.equal(padded[r : r + 8, c : c + 8], after)]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) > 12


def test_a_flip_mirrors_about_half(data):
    flipped = data.train.take(torch.arange(50), Augment(flip=True), torch.Generator().manual_seed(0))
    same = [torch.equal(a, b) for a, b in zip(flipped, data.train.pixels, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, data.train.pixels, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 12 < sum(same) < 38


def test_evaluation_goes_through_all_images_in_order(data):
    batches = list(in_order(data, data.test, torch.arange(50), 16))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(50))
    torch.testing.assert_close(batches[0][0], (data.test.pixels[:16] / 255 - 0.5) / 0.25)


def test_the_two_parts_of_a_split_share_no_image_and_are_fixed_by_the_seed():
    first, second = split_indices(1000, 0.8, seed=3)
    assert (len(first), len(second)) == (800, 200)
    assert sorted(torch.cat([first, second]).tolist()) == list(range(1000))
    assert torch.equal(first, split_indices(1000, 0.8, seed=3)[0])
    few = torch.cat(split_indices(1000, 0.8, seed=3, most=100))
    assert len(set(few.tolist())) == 100
