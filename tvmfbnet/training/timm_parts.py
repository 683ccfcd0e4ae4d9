"""The schedules and the average of weights that training takes from timm, without what timm loads besides.

``import timm`` defines all of its models and loads torchvision and torch's compiler, which takes as long as torch
itself; every command that trains, compiles or times a net would wait for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__all__ = ["CosineLRScheduler", "ModelEmaV3", "create_scheduler_v2"]


@contextmanager
def _bare_packages(*names: str) -> Iterator[None]:
    """Meanwhile, these subpackages of timm can be searched for modules, but their own code does not run.

    Afterwards timm is as if it had never been imported, so an ``import timm`` elsewhere gets all of it.
    """
    spec = None if "timm" in sys.modules else find_spec("timm")
    if spec is None or spec.origin is None:  # loaded already
        yield
        return
    root = Path(spec.origin).parent
    for name in names:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]


with _bare_packages("timm", "timm.utils"):
    create_scheduler_v2 = importlib.import_module("timm.scheduler").create_scheduler_v2
    CosineLRScheduler = importlib.import_module("timm.scheduler.cosine_lr").CosineLRScheduler
    ModelEmaV3 = importlib.import_module("timm.utils.model_ema").ModelEmaV3
