"""Scenes of Fashion-MNIST objects: targets tell what is to be seen and where, also after augmentation."""

import pytest
import torch
from test_datasets import fashion

from tvmfbnet.data.augment import FLIP, LEFT, TOP, Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.held_out import with_held_out
from tvmfbnet.data.loader import Loader, in_order
from tvmfbnet.data.places import check_data, classes_of
from tvmfbnet.data.scene_options import OUTPUTS, SceneOptions
from tvmfbnet.data.scenes import masks, render_scenes, shown_boxes, shown_classes
from tvmfbnet.errors import DataError
from tvmfbnet.tasks import TASK_NAMES

SQUARE = torch.full((1, 28, 28), 200, dtype=torch.uint8)
WHOLE = torch.arange(40)


def drawn(count=40, **options):
    return render_scenes(SQUARE, torch.tensor([7]), count, SceneOptions(**options), 48, 64, stream=0)


def spec(folder, **options):
    return f"fashion_scenes:{fashion(folder)}?" + "&".join(f"{name}={value}" for name, value in options.items())


def centre_of(images):
    """The middle of what is bright, as shares of width and height: (n, 2)."""
    bright = (images[:, 0] > 100).float()
    shares = [bright.sum(dim) / bright.sum((1, 2)).unsqueeze(1) for dim in (1, 2)]
    return torch.stack([(share * (torch.arange(share.shape[1]) + 0.5)).sum(1) / share.shape[1] for share in shares], 1)


def test_objects_lie_where_the_targets_say_and_are_of_that_size():
    scenes = drawn(objects=1, turn=0.0)
    assert torch.allclose(centre_of(scenes.pixels), scenes.places[:, 0, :2], atol=0.01)
    areas = (scenes.pixels > 100).flatten(1).sum(1)
    assert torch.allclose(areas.sqrt() / 48, scenes.places[:, 0, 2], atol=0.03)
    assert scenes.places[:, 0].std(dim=0).min() > 0.03, "they differ"


def test_later_objects_cover_earlier_ones_and_some_images_have_fewer():
    scenes = drawn(objects=3)
    counts = (scenes.classes >= 0).sum(1)
    assert counts.min() == 1 and counts.max() == 3 and scenes.top.max() == 3
    assert torch.equal(scenes.top > 0, scenes.pixels[:, 0] > 0)
    for tops, count in zip(scenes.top, counts.tolist(), strict=True):
        assert (tops == count).any(), "the last one is whole"


def test_labels_are_of_the_classes_that_are_to_be_seen():
    scenes = drawn(objects=2)
    assert shown_classes(scenes).sum(1).tolist() == [1.0] * 40 and shown_classes(scenes)[:, 7].min() == 1
    scenes.top[0] = 0  # as if all were covered
    assert shown_classes(scenes)[0].sum() == 0


def test_masks_have_the_class_of_what_is_on_top_and_move_with_the_image(tmp_path):
    scenes = drawn(objects=2)
    seen = masks(scenes)
    assert seen.dtype == torch.uint8 and torch.equal(seen > 0, scenes.top > 0) and set(seen.unique().tolist()) == {0, 8}
    data = load_data(spec(tmp_path, task="segmentation", images=40), 64, 64, 1, 11)
    assert data.class_names[:2] == ("background", "T-shirt/top")
    generator = torch.Generator().manual_seed(0)
    augment = Augment(shift=6, flip=True)
    draws = augment.draw(40, generator)
    pixels, moved = (getattr(data.train, name)(WHOLE, augment, draws) for name in ("load", "targets"))
    assert torch.equal(moved > 0, pixels[:, 0] > 0) and not torch.equal(moved, data.train.labels)


def extents(seen):
    """Corners of what is True in masks (n, h, w), as shares."""
    corners = []
    for mask in seen:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        corners.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    height, width = seen.shape[1:]
    return torch.tensor(corners) / torch.tensor([width, height, width, height])


def test_boxes_enclose_what_is_to_be_seen_and_move_with_the_image(tmp_path):
    scenes = drawn(objects=2)
    boxes = shown_boxes(scenes)
    last = (scenes.classes >= 0).sum(1)  # the object in front, which is whole
    front = boxes[torch.arange(40), last - 1]
    assert torch.allclose(front[:, 1:], extents(scenes.top == last.view(-1, 1, 1))) and bool((front[:, 0] == 8).all())
    assert bool((boxes[last == 1, 1] == 0).all())
    data = load_data(spec(tmp_path, task="detection", images=40, objects=1), 64, 64, 1, 11)
    augment = Augment(shift=6, flip=True)
    draws = augment.draw(40, torch.Generator().manual_seed(0))
    pixels, moved = (getattr(data.train, name)(WHOLE, augment, draws) for name in ("load", "targets"))
    assert torch.allclose(moved[:, 0, 1:], extents(pixels[:, 0] > 0), atol=1e-6)
    assert not torch.equal(moved, data.train.labels)
    gone = torch.tensor([[[3.0, 0.0, 0.2, 0.05, 0.4]]]).expand(40, -1, -1)
    assert float(data.train._kind.move(gone, augment, draws, (64, 64))[:, :, 0].min()) == 0.0, "some leave the image"


def test_every_task_has_targets_and_the_same_spec_gives_the_same_scenes(tmp_path):
    assert set(OUTPUTS) == set(TASK_NAMES)
    fingerprints = set()
    for task in TASK_NAMES:
        text = spec(tmp_path, task=task, images=20)
        data, again = (load_data(text, 32, 32, 1, OUTPUTS[task]) for _ in range(2))
        assert data.task == task and classes_of(text) == data.classes and len(data.test) == 10
        assert torch.equal(data.train.pixels, again.train.pixels) and data.fingerprint == again.fingerprint
        assert len(data.class_names) == data.classes
        fingerprints.add(data.fingerprint)
    assert len(fingerprints) == len(TASK_NAMES)
    other = load_data(spec(tmp_path, task="multi_label", images=20, seed=1), 32, 32, 1)
    assert other.fingerprint not in fingerprints


def test_targets_move_with_a_mirrored_and_shifted_image(tmp_path):
    data = load_data(spec(tmp_path, task="regression", images=40, largest=0.4), 64, 64, 1, 3)
    draws = torch.full((1, 12), 0.5)
    draws[0, [FLIP, TOP, LEFT]] = torch.tensor([0.1, 0.0, 0.99])  # mirrored, 4 pixels down, 4 to the left
    augment, one = Augment(shift=4, flip=True), torch.tensor([3])
    x, y, side = data.train.labels[3].tolist()
    moved = data.train.targets(one, augment, draws)[0].tolist()
    assert moved == pytest.approx([1 - x - 4 / 64, y + 4 / 64, side])
    before, after = (data.train.load(one, augment, each).float() for each in (None, draws))
    assert torch.equal(after[..., 4:, :-4], before.flip(3)[..., :-4, 4:])


def test_the_loader_hands_out_moved_targets_and_evaluation_unmoved_ones(tmp_path):
    data = load_data(spec(tmp_path, task="regression", images=40), 64, 64, 1, 3)
    _, moved = Loader(data, data.train, WHOLE, 40, Augment(4, True), 0).next()
    _, unmoved = next(in_order(data, data.train, WHOLE, 40))
    assert torch.equal(unmoved, data.train.labels) and not torch.equal(moved.sort(0).values, unmoved.sort(0).values)
    held_out = with_held_out(data, 0)
    assert held_out.task == "regression" and torch.equal(
        held_out.test.targets(torch.tensor([0]), Augment(), None), held_out.test.labels[:1]
    )


def test_an_augmentation_that_targets_cannot_follow_is_refused(tmp_path):
    data = load_data(spec(tmp_path, task="regression", images=40), 64, 64, 1, 3)
    with pytest.raises(DataError, match="augment_trivial turns and shears images, and targets of regression"):
        Loader(data, data.train, WHOLE, 8, Augment(trivial=True), 0).next()
    labels = load_data(spec(tmp_path, task="multi_label", images=40), 64, 64, 1, 10)
    assert Loader(labels, labels.train, WHOLE, 8, Augment(trivial=True), 0).next()[1].shape == (8, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "juggling"}, "no task 'juggling'; there are classification, multi_label"),
        ({"colour": 1}, "no option 'colour'; there are task, images"),
        ({"objects": "many"}, "objects=many is not a number"),
        ({"objects": 9}, "objects must lie in 1 to 8"),
        ({"smallest": 0.6}, r"smallest \(0.6\) is above largest"),
        ({"task": "regression", "objects": 2}, "targets of regression are of one object"),
    ],
)
def test_a_wrong_spec_is_one_line(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        check_data(spec(tmp_path, **options), 64, 64, 1)


def test_a_space_that_is_too_small_or_has_colours_is_refused(tmp_path):
    for size, channels, said in ((20, 1, "needs an input of at least 28x28"), (64, 3, "is grey")):
        with pytest.raises(DataError, match=said):
            check_data(spec(tmp_path), size, size, channels)
