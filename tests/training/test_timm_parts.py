"""Training takes schedules and averages from timm without loading its models, and hides no timm from anybody else."""

import subprocess
import sys

PROGRAM = """
import sys
import tvmfbnet.search.weight_training, tvmfbnet.training.trainer
from tvmfbnet.training.timm_parts import CosineLRScheduler
assert not {"torchvision", "torch._dynamo", "timm"} & sys.modules.keys(), "a command waits for what it does not use"
import timm.scheduler, timm.utils
assert timm.create_model("fbnetc_100").num_classes == 1000
assert timm.utils.ModelEmaV3 and timm.scheduler.CosineLRScheduler.__name__ == CosineLRScheduler.__name__
"""


def test_training_loads_no_model_of_timm_and_leaves_a_whole_timm_to_others():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
