"""Every block that is due is met inside a net, at each of its places, so often as asked for."""

from collections import Counter

from tvmfbnet.profiling.probe_networks import probe_networks
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import BLOCK


def places(space, nets):
    """How often each block was met at each layer; identity skips are in no net and left out."""
    met = Counter()
    for net in nets:
        blocks = iter([part for part in net if part.part == BLOCK] + [None])
        block = next(blocks)
        for layer in space.layers:
            # A block can only stand where its shape fits; the first fitting layer may have held an identity skip.
            if block is not None and block in [layer.cell(name) for name in layer.blocks]:
                met[block] += 1
                block = next(blocks)
        assert block is None, "the net's blocks do not fit the layers in order"
    return met


def test_all_blocks_of_a_space_are_met_in_few_nets():
    space = load_space("fbnet")
    due = set(space.distinct_blocks())
    nets = probe_networks(space, due, 2, due, 0)
    # Nine candidates in a layer where skip is a projection, eight conv blocks elsewhere.
    assert len(nets) == 2 * 9
    met = places(space, nets)
    uses = Counter(layer.cell(block) for layer in space.layers for block in layer.blocks)
    assert all(met[block] >= 2 * uses[block] for block in due)
    assert all(net[0] == space.stem and net[-3:] == space.head for net in nets)


def test_neighbours_change_from_round_to_round():
    space = load_space("fbnet")
    due = set(space.distinct_blocks())
    nets = probe_networks(space, due, 2, due, 0)
    assert len(set(nets)) == len(nets)
    assert nets == probe_networks(space, due, 2, due, 0)
    assert nets != probe_networks(space, due, 2, due, 1)


def test_one_block_needs_one_net_a_round_and_known_ones_around_it(tiny_space):
    block = tiny_space.distinct_blocks()[0]
    lowered = {block, *tiny_space.distinct_blocks()[-3:]}
    nets = probe_networks(tiny_space, {block}, 3, lowered, 0)
    assert all(block in net for net in nets[:3])


def test_stem_and_head_alone_still_get_a_net(tiny_space):
    nets = probe_networks(tiny_space, (), 1, (), 0)
    assert nets and all(net[0] == tiny_space.stem for net in nets)
