"""What may judge whole archs. To add one: a file here with its name, and that name in the list below.

Every module offers ``EVALUATOR``, a :class:`tvmfbnet.search.evaluators.base.EvaluatorKind`. Names are known without
loading any of them, as they load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tvmfbnet.search.evaluators.base import EvaluatorKind

EvaluatorName = Literal["short_training", "supernet"]

EVALUATOR_NAMES: tuple[str, ...] = get_args(EvaluatorName)


def evaluator_named(name: str) -> EvaluatorKind:
    """A registered kind of evaluator."""
    if name not in EVALUATOR_NAMES:
        raise ValueError(f"no evaluator is called {name!r}")
    kind: EvaluatorKind = import_module(f"tvmfbnet.search.evaluators.{name}").EVALUATOR
    return kind
