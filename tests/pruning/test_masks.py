"""Masks remove the smallest weights, exactly as many as asked, and what is removed stays removed."""

import pytest
import torch

from tvmfbnet.nets.network import build_net
from tvmfbnet.pruning.masks import MaskedTicket, adaptive_scores, prunable, smallest_removed
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.checkpoint import seeded


@pytest.fixture
def arch(tiny_space):
    return parse_arch("k3_e1/k3_e3,skip", tiny_space)


@pytest.fixture
def net(arch, tiny_space):
    with seeded(0):
        return build_net(arch, tiny_space)


def whole(arch, space, scope="global"):
    return MaskedTicket.whole(arch, space, scope, dropout=0.0)


def weights_of(net):
    return {name: module.weight.detach().clone() for name, module in prunable(net).items()}


def test_the_smallest_weights_of_the_whole_net_are_removed_and_the_net_stays_as_it_is(arch, tiny_space, net):
    before, state = weights_of(net), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks = smallest_removed(net, whole(arch, tiny_space).masks, 0.3, scope="global")
    total = sum(mask.numel() for mask in masks.values())
    kept = torch.cat([before[name][masks[name] == 1].abs() for name in masks])
    removed = torch.cat([before[name][masks[name] == 0].abs() for name in masks])
    assert len(kept) == round(0.3 * total) and removed.max() <= kept.min()
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_every_layer_keeps_the_same_share_and_at_least_one_weight(arch, tiny_space, net):
    masks = smallest_removed(net, whole(arch, tiny_space).masks, 0.25, scope="layer")
    assert [int(mask.sum()) for mask in masks.values()] == [round(0.25 * mask.numel()) for mask in masks.values()]
    least = smallest_removed(net, masks, 1e-6, scope="layer")
    assert {int(mask.sum()) for mask in least.values()} == {1}


def test_adaptive_scores_are_shares_of_the_squares_that_are_no_smaller_and_no_layer_is_left_empty(
    arch, tiny_space, net
):
    scores = adaptive_scores(torch.tensor([[2.0, -1.0], [0.0, 4.0]]))
    assert scores.tolist() == [[4 / 20, 1 / 21], [0, 1]]
    with torch.no_grad():  # by magnitude alone the whole layer would go
        net.head_linear.weight *= 1e-6
    masks = smallest_removed(net, whole(arch, tiny_space).masks, 0.1, scope="adaptive")
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * sum(mask.numel() for mask in masks.values()))
    assert all(mask.any() for mask in masks.values())
    assert not smallest_removed(net, whole(arch, tiny_space).masks, 0.1, scope="global")["head_linear"].any()
    fewer = smallest_removed(net, masks, 0.05, scope="adaptive")
    assert all((fewer[name] <= mask).all() and fewer[name].any() for name, mask in masks.items())


def test_what_was_removed_stays_removed_even_where_it_was_the_largest(arch, tiny_space, net):
    first = whole(arch, tiny_space).pruned(net, 0.5)
    with torch.no_grad():
        for name, module in prunable(net).items():
            module.weight += 100 * (1 - first.masks[name])
    second = first.pruned(net, 0.25)
    assert all((second.masks[name] <= mask).all() for name, mask in first.masks.items())
    assert second.size.remaining == pytest.approx(0.25, abs=1e-3) and second.size.weights == round(0.25 * _total(first))


def _total(ticket):
    return sum(mask.numel() for mask in ticket.masks.values())


def test_a_ticket_has_the_given_weights_and_its_control_others_and_both_have_zeros_at_the_same_places(
    arch, tiny_space, net
):
    ticket = whole(arch, tiny_space).pruned(net, 0.4)
    rewound, control = (ticket.plain(made) for made in (ticket.build(net.state_dict()), ticket.control(seed=1)))
    assert rewound.state_dict().keys() == net.state_dict().keys()
    for name, weights in weights_of(net).items():
        mask = ticket.masks[name]
        assert torch.equal(prunable(rewound)[name].weight, weights * mask)
        other = prunable(control)[name].weight
        assert torch.equal(other == 0, mask == 0)
        assert mask.sum() == 0 or not torch.equal(other, weights * mask)


def test_a_layer_without_weights_is_counted(arch, tiny_space, net):
    ticket = whole(arch, tiny_space)
    assert ticket.size.emptied_layers == 0 and ticket.size.remaining == 1
    assert ticket.pruned(net, 0.5).size.emptied_layers == 1, "the classifier, which begins with tiny weights"
    with torch.no_grad():
        net.stem.conv.weight *= 1e-6
    assert ticket.pruned(net, 0.5).size.emptied_layers == 2
