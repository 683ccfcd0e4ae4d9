import pytest

from tvmfbnet.errors import ArchError
from tvmfbnet.space.blocks import FBNET_BLOCKS, SKIP, BlockSpec, canonical_block, parse_block


def test_every_block_of_the_paper_reads_back_as_its_own_name() -> None:
    for name in FBNET_BLOCKS:
        spec = parse_block(name)
        assert name == SKIP if spec is None else spec.name == name
    assert len(set(FBNET_BLOCKS)) == 9


def test_blocks_beyond_the_paper_are_allowed() -> None:
    assert parse_block("k7_e4_g4") == BlockSpec(7, 4, 4)
    assert canonical_block("k3_e1_g1") == "k3_e1"


@pytest.mark.parametrize(
    "name", ["", "k4_e1", "k3", "k3_e0", "k3_e1_g0", "K3_e1", "k3_e1 ", "conv", "k3_e1_g2_x", "k03_e1"]
)
def test_an_unknown_block_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ArchError, match="odd kernel") as caught:
        parse_block(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
