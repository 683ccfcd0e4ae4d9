"""Tests of simulated cores need LLVM 19."""

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import load_core
from tvmfbnet.simulation.tools import find_llvm


@pytest.fixture
def llvm():
    try:
        return find_llvm()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def cycles_of(llvm, tmp_path):
    """Cycles on a core, with a cache of the test's own."""
    return lambda name: BlockCycles(load_core(name), tmp_path)
