"""What every task promises: tallies add up, right answers have accuracy 1, ignorant ones that of chance."""

import pytest
import torch

from tvmfbnet.nets.boxes import as_centres, as_corners, decoded, encoded
from tvmfbnet.tasks import TASK_NAMES, task_named
from tvmfbnet.tasks.average_precision import average_precision, score_histogram
from tvmfbnet.tasks.detection import answers, match


def sample(name, count=200, seed=0):
    """Targets of a task, and the outputs of a net that knows them."""
    generator = torch.Generator().manual_seed(seed)
    if name == "classification":
        targets = torch.randint(4, (count,), generator=generator)
        return targets, 20 * torch.nn.functional.one_hot(targets, 4).float() - 10
    if name == "multi_label":
        targets = (torch.rand(count, 5, generator=generator) < 0.3).float()
        return targets, 20 * targets - 10
    if name == "segmentation":
        targets = torch.randint(3, (count, 4, 4), generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return targets.to(torch.uint8), 20 * torch.nn.functional.one_hot(targets, 3).permute(0, 3, 1, 2).float() - 10
    if name == "detection":
        return detection_sample(count, generator)
    assert name == "regression", f"a new task needs a sample here: {name}"
    targets = torch.rand(count, 3, generator=generator)
    return targets, targets.clone()


def detection_sample(count, generator):
    """Up to two boxes that lie as two of eight anchors do, and logits that are sure of them."""
    anchors = torch.tensor([[(x + 0.5) / 4, (y + 0.5) / 2, 0.25, 0.5] for y in range(2) for x in range(4)])
    chosen = torch.rand(count, 8, generator=generator).argsort(dim=1)[:, :2]
    kinds = torch.randint(1, 4, (count, 2), generator=generator)
    kinds[::3, 1] = 0
    targets = torch.cat([kinds.unsqueeze(2), as_corners(anchors[chosen])], dim=2) * (kinds > 0).unsqueeze(2)
    classes = torch.zeros(count, 8, dtype=torch.int64).scatter_(1, chosen, kinds)
    logits = 20 * torch.nn.functional.one_hot(classes, 4).float() - 10
    return targets, torch.cat([logits, torch.zeros(count, 8, 4), anchors.expand(count, -1, -1)], dim=2)


@pytest.fixture(params=TASK_NAMES)
def task(request):
    return task_named(request.param)


def ignorant(outputs):
    """Outputs that say nothing about an image: those of another one."""
    return outputs[torch.randperm(len(outputs), generator=torch.Generator().manual_seed(1))]


def test_a_net_that_knows_everything_has_accuracy_1_and_agrees_with_itself(task):
    targets, outputs = sample(task.name)
    assert task.accuracy(task.tally(outputs, targets)) == pytest.approx(1.0)
    assert task.batch_accuracy(outputs, targets) == pytest.approx(1.0)
    agreement = task.agreement(outputs, outputs)
    assert agreement.shape == (200,) and agreement.dtype == torch.float64 and bool((agreement == 1).all())


def test_tallies_of_parts_add_up_to_that_of_the_whole(task):
    targets, outputs = sample(task.name)
    outputs = (outputs + ignorant(outputs)) / 2
    whole = task.tally(outputs, targets)
    parts = task.added([task.tally(outputs[:70], targets[:70]), task.tally(outputs[70:], targets[70:])])
    assert whole.dtype == torch.float64 and torch.allclose(whole, parts)
    assert 0.0 < task.accuracy(whole) < 1.0


def test_a_net_that_learned_nothing_is_explained_by_chance_and_one_that_did_is_not(task):
    targets, outputs = sample(task.name, count=2000)
    chance = task.chance(targets)
    assert chance.images == 2000
    # The best that can be answered without a look at the image.
    places = [0] if task.name == "detection" else [dim for dim in range(outputs.dim()) if dim != 1]
    same = outputs.mean(dim=places, keepdim=True).expand_as(outputs)
    assert chance.explains(task.accuracy(task.tally(same, targets)))
    assert not chance.explains(task.accuracy(task.tally(outputs, targets)))
    assert "no better than chance" in chance.describe(0.1)


def test_the_loss_is_low_where_a_net_is_right_and_has_a_gradient_where_it_is_not(task):
    targets, outputs = sample(task.name)
    wrong = ignorant(outputs).requires_grad_()
    loss = task.loss(wrong, targets)
    loss.backward()
    assert loss.dim() == 0 and float(task.loss(outputs, targets)) < 0.01 < loss.item()
    assert bool(torch.isfinite(wrong.grad).all()) and float(wrong.grad.abs().sum()) > 0
    assert float(task.loss(outputs, targets, 0.2)) >= float(task.loss(outputs, targets))


def test_soft_targets_take_the_place_of_targets_and_mix_with_them(task):
    targets, outputs = sample(task.name)
    soft = task.soft(ignorant(outputs))
    for learned in (soft, task.mixed(targets, soft)):
        assert learned.shape == outputs.shape and bool(torch.isfinite(task.loss(outputs, learned)))
    same, other = (float(task.distilled_loss(each, outputs, 2.0)) for each in (outputs, ignorant(outputs)))
    assert same < other, "a net learns from another until both say the same"
    # Half of what is learned are the targets: nearer to them than the soft ones alone.
    assert not task.distils or float(task.loss(outputs, task.mixed(targets, soft))) < float(task.loss(outputs, soft))


def test_two_nets_that_answer_differently_do_not_agree(task):
    _, outputs = sample(task.name)
    assert float(task.agreement(outputs, ignorant(outputs)).mean()) < 0.9


def test_average_precision_is_the_exact_one_where_no_two_scores_share_a_bin():
    scores = torch.tensor([0.95, 0.85, 0.75, 0.65, 0.55, 0.45])
    right = torch.tensor([True, False, True, True, False, False])
    histogram = score_histogram(scores, torch.zeros(6, dtype=torch.int64), right, 2)
    precisions = average_precision(histogram, torch.tensor([4.0, 0.0]))  # a fourth one has no answer at all
    assert precisions.tolist() == pytest.approx([(1 / 1 + 2 / 3 + 3 / 4) / 4, 0.0])


def test_multi_label_leaves_out_classes_that_no_image_has_and_regression_values_that_all_share():
    multi, regression = task_named("multi_label"), task_named("regression")
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert multi.accuracy(multi.tally(torch.tensor([[3.0, 3.0], [-3.0, 3.0]]), targets)) == 1.0
    assert multi.accuracy(multi.tally(torch.zeros(2, 2), torch.zeros(2, 2))) == 0.0
    values = torch.tensor([[0.2, 0.5], [0.8, 0.5]])
    assert regression.accuracy(regression.tally(values + torch.tensor([0.0, 1.0]), values)) == 1.0
    assert regression.accuracy(regression.tally(1 - values, values)) == 0.0, "worse than the mean counts as none"
    assert regression.accuracy(regression.tally(values, values.mean(dim=0).expand(2, 2))) == 0.0


def test_a_coarser_map_is_judged_at_the_size_of_the_mask_and_pixels_that_are_not_judged_do_not_count():
    task = task_named("segmentation")
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, :, 4:] = 1
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0, :, 0], logits[:, 1, :, 1] = 4.0, 4.0
    assert task.accuracy(task.tally(logits, masks)) == 1.0
    wrong = masks.clone()
    wrong[:, :2] = 2  # a class that is never answered: shares 3/4, 3/4 and 0
    assert task.accuracy(task.tally(logits, wrong)) == pytest.approx(0.5)
    wrong[:, :2] = 255
    assert task.accuracy(task.tally(logits, wrong)) == 1.0
    for given in (wrong, task.mixed(wrong, task.soft(logits))):
        loss = task.loss(logits.clone().requires_grad_(), given)
        assert bool(torch.isfinite(loss)) and 0 < float(loss.detach()) < 0.4
    nothing = torch.full_like(masks, 255)
    assert task.accuracy(task.tally(logits, nothing)) == 0.0 and task.chance(nothing).accuracy == 0.0


def test_a_box_counts_at_the_thresholds_that_it_reaches_and_once():
    task = task_named("detection")
    targets = torch.tensor([[[1.0, 0.0, 0.0, 0.5, 0.5]]])
    anchors = as_centres(torch.tensor([[0.0, 0.0, 0.5, 0.31], [0.0, 0.0, 0.5, 0.32], [0.7, 0.7, 0.9, 0.9]]))
    logits = torch.tensor([[-2.0, 2.0], [-1.5, 1.5], [9.0, -9.0]])
    outputs = torch.cat([logits, torch.zeros(3, 4), anchors], dim=1).unsqueeze(0)
    assert len(answers(outputs)[0][0]) == 1, "the second one is suppressed"
    assert task.accuracy(task.tally(outputs, targets)) == pytest.approx(0.3), "0.62 of the box: 0.5, 0.55 and 0.6"
    outputs[0, 2, :2] = torch.tensor([-3.0, 3.0])  # surer, and nowhere near a box
    assert task.accuracy(task.tally(outputs, targets)) == pytest.approx(0.15)
    assert task.accuracy(task.tally(outputs, torch.zeros(1, 2, 5))) == 0.0
    outputs[..., :2] = torch.tensor([9.0, -9.0])  # nothing but background
    assert task.accuracy(task.tally(outputs, targets)) == 0.0


def test_every_box_has_an_anchor_and_offsets_lead_back_to_it():
    boxes = torch.tensor([[[0.1, 0.1, 0.15, 0.2], [0.5, 0.4, 0.9, 1.0]]])
    targets = torch.cat([torch.tensor([[[2.0], [3.0]]]), boxes], dim=2)
    anchors = torch.tensor([[[0.2, 0.2, 0.4, 0.4], [0.7, 0.7, 0.4, 0.6], [0.8, 0.2, 0.3, 0.3]]])
    matched, which = match(anchors, targets)
    assert matched.tolist() == [[True, True, False]] and which[0, :2].tolist() == [0, 1]
    near = anchors[:, :2]
    assert torch.allclose(decoded(encoded(boxes, near), near), boxes, atol=1e-6)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="no task is called 'juggling'"):
        task_named("juggling")
