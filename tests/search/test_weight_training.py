"""The ways in which a supernet's weights learn: each does what its setting says, and resumes bit-equal."""

import copy
from dataclasses import replace

import pytest
import torch
from test_searcher import make, run_to_end, snapshot  # noqa: F401

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import DivergedError, StorageError, UserError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.distillation import net_to_distil
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.space.arch import Arch
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train

WINDOW = {"weight_paths": "window", "latency_target_ms": 3.0, "weight_steps": "sampled"}
WAYS = {
    "shared": {"share_weights": True},
    "window": WINDOW,
    "fair": {"weight_paths": "fair", "step_paths": 4},
    "sandwich": {"sandwich": True, "step_paths": 2},
    "ema": {"weight_ema": 0.9},
    "fitted": {"theta_steps": "fitted", "latency_target_ms": 3.0},
    "together": {**WINDOW, "share_weights": True, "sandwich": True, "weight_ema": 0.9, "theta_steps": "fitted"},
}


@pytest.fixture
def trained_net(tiny_space, tiny_data, tmp_path):
    """A trained net's file."""
    config = TrainConfig(epochs=1, warmup_epochs=0, batch_size=16, threads=1, device="cpu")
    return str(train(Arch(("k3_e3",) * 3), tiny_space, tiny_data, config, tmp_path / "trained").checkpoint)


def stopped_and_continued(build, tmp_path, stop, **settings):
    first = run_to_end(build(**settings), stop)
    torch.save(first.state_dict(), tmp_path / "state")
    second = build(**settings)
    torch.rand(7)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    return run_to_end(second)


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_continued_it_ends_bit_equal(make, tmp_path, way):  # noqa: F811
    settings = {"epochs": 3, "warmup_epochs": 1, **WAYS[way]}
    whole = run_to_end(make(**settings))
    state, history = snapshot(whole)
    for stop in (3, 9, 13):  # in the warm-up, among w's steps, among theta's
        again = stopped_and_continued(make, tmp_path, stop, **settings)
        assert snapshot(again)[1] == history
        for name, tensor in again.supernet.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        judged = again.judged_supernet.state_dict()
        assert all(torch.equal(tensor, judged[name]) for name, tensor in whole.judged_supernet.state_dict().items())


@pytest.mark.parametrize("way", [way for way in WAYS if way != "fitted"])
def test_each_way_trains_other_weights_than_the_paper_does(make, way):  # noqa: F811
    plain = {name: value for name, value in WAYS[way].items() if name in ("latency_target_ms", "weight_steps")}
    first, second = (run_to_end(make(epochs=2, warmup_epochs=1, **settings)) for settings in (plain, WAYS[way]))
    one, other = first.judged_supernet.state_dict(), second.judged_supernet.state_dict()
    assert not torch.equal(one["stem.conv.weight"], other["stem.conv.weight"])


def test_window_paths_train_no_block_that_only_slower_archs_have(make):  # noqa: F811
    searcher = make(**{**WINDOW, "latency_target_ms": 2.3}, window_share=0.5)
    blocks = searcher.supernet.layers[1].blocks
    before = [copy.deepcopy(block) for block in blocks]
    run_to_end(searcher, 20)  # the block of 2.0 ms fits no arch of 2.3 ms
    same = [
        all(torch.equal(one, other) for one, other in zip(old.parameters(), block.parameters(), strict=True))
        for old, block in zip(before, blocks, strict=True)
    ]
    assert same[1] and not same[2]


def test_in_a_sandwich_only_the_heaviest_path_sees_the_labels(make, monkeypatch):  # noqa: F811
    searcher, seen = make(sandwich=True, step_paths=2), []
    real = torch.nn.functional.cross_entropy

    def spy(outputs, target, **options):
        seen.append(target)
        return real(outputs, target, **options)

    monkeypatch.setattr("torch.nn.functional.cross_entropy", spy)
    searcher.advance()
    assert [target.dim() for target in seen] == [1, 2, 2, 2] and torch.allclose(seen[1].sum(dim=1), torch.ones(16))
    heaviest, lightest = searcher.supernet.heaviest_choice(), searcher.supernet.lightest_choice()
    assert heaviest == [1, 1, 1] and lightest == [3, 3, 3], "k3_e3 and skip"


def test_a_moving_average_lies_between_where_w_was_and_where_it_is(make):  # noqa: F811
    searcher = make(weight_ema=0.5)
    last = {}
    for _ in range(14):  # the last one is of w, and by then the average keeps the whole share
        last = {n: p.detach().clone() for n, p in searcher.judged_supernet.named_parameters()}
        searcher.advance()
    now, averaged = dict(searcher.supernet.named_parameters()), dict(searcher.judged_supernet.named_parameters())
    assert torch.allclose(averaged["stem.conv.weight"], (last["stem.conv.weight"] + now["stem.conv.weight"]) / 2)
    assert torch.equal(make().judged_supernet.stem.conv.weight, make().supernet.stem.conv.weight)


def test_a_net_to_distil_from_takes_part_and_a_missing_one_is_named(make, trained_net):  # noqa: F811
    plain, distilled = run_to_end(make(), 3), run_to_end(make(distil_from=trained_net), 3)
    assert not torch.equal(plain.supernet.stem.conv.weight, distilled.supernet.stem.conv.weight)
    with pytest.raises(StorageError, match="nowhere"):
        make(distil_from="nowhere/net.pt")


def test_a_net_of_other_images_is_refused(tiny_space, tiny_data, trained_net):
    data = load_data(tiny_data, 32, 28, 1, 10)
    with pytest.raises(UserError, match=r"distil_from: .* for 1x28x28 images and 10 classes, the data set has 1x32x28"):
        net_to_distil(trained_net, data, torch.device("cpu"))


def test_tuned_archs_fit_what_they_were_tuned_on_and_the_supernet_stays_as_it_is(make):  # noqa: F811
    searcher = run_to_end(make(tune_steps=40, weight_lr=0.2), 4)
    before = copy.deepcopy(searcher.supernet.state_dict())
    arch = Arch(("k3_e3",) * 3)
    plain, tuned = (
        replace(Judge.of(searcher, 32, None, tuned=tuned), judged=searcher.weight_indices) for tuned in (False, True)
    )
    assert tuned.accuracy(arch) > plain.accuracy(arch) and tuned.accuracy(arch) == tuned.accuracy(arch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in searcher.supernet.state_dict().items())


def test_a_path_that_diverges_is_noticed(make):  # noqa: F811
    with pytest.raises(DivergedError, match="lower weight_lr"):
        run_to_end(make(sandwich=True, past_bounds={"weight_lr": 1e30}))


def test_a_window_needs_a_constraint_which_a_recipe_may_only_work_out_later():
    config = SearchConfig(weight_paths="window")
    with pytest.raises(ValueError, match="weight_paths window needs latency_target_ms or constraints"):
        config.require_consistent_target()
    SearchConfig(weight_paths="window", constraints=("params<=1M",)).require_consistent_target()


def test_the_plan_counts_every_path():
    settings = {"epochs": 2, "warmup_epochs": 1, "batch_size": 10, "weight_steps": "sampled", "candidates": 1}
    plain = SearchPlan.of(SearchConfig(**settings, screened=1), 100)
    fair = SearchPlan.of(SearchConfig(**settings, screened=1, step_paths=3, sandwich=True), 100)
    assert fair.images - plain.images == 2 * 8 * 10 * 4
    fitted = SearchPlan.of(SearchConfig(**settings, screened=1, theta_steps="fitted"), 100)
    assert fitted.images - plain.images == pytest.approx(2 * 10 * (8 / 3 - 1))
