"""What `latency validate` refuses; that it times nets is tested with the tuned space, in test_deploy."""

import pytest
from validate_cli import validate

from tvmfbnet.deploy.whole_nets import measure_nets
from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.space.arch import Arch
from tvmfbnet.targets.definition import load_target


def test_nets_of_a_target_that_was_never_tuned_are_refused(tiny_space, tmp_path):
    arch = Arch(tuple(layer.blocks[0] for layer in tiny_space.layers))
    with pytest.raises(LatencyError, match="nothing was tuned"):
        measure_nets(tiny_space, load_target("host"), [arch], tmp_path)


def test_stored_and_run_exclude_each_other():
    with pytest.raises(UserError, match="one of the two"):
        validate("validate", "--target", "host", "--space", "fbnet_mini", "--stored", "--run", "runs/x")
