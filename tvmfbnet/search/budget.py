"""The budget of a strategy that judges whole archs, in training images; minutes are converted to images once.

How many images a machine trains on in a minute differs from one moment to the next. So the conversion is measured when
a search starts and kept in ``budget.json``: a search that resumes, on whatever machine, spends the same images and
ends with the same result.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tvmfbnet.errors import ConfigError
from tvmfbnet.files import Stored, read_model, write_json
from tvmfbnet.progress import say
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.forecast import images_per_second
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem

BUDGET_FILE = "budget.json"


class ImageBudget(Stored):
    """The images that a search's minutes were found to be worth, and what search that is."""

    identity: dict[str, Any]
    images: int = Field(ge=1)


def planned_budget(config: SearchConfig, images: int) -> float:
    """The budget by the settings alone.

    Args:
        config: the settings; minutes must have been converted.
        images: training images of the data set.

    Raises:
        ConfigError: the settings give minutes, which only a measurement converts.
    """
    if config.budget_minutes is not None:
        raise ConfigError("search settings", ["budget_minutes must be converted to images first"])
    return SearchPlan.of(config, images).images if config.budget_images is None else float(config.budget_images)


def budget_of(problem: SearchProblem, keep: bool = True) -> float:
    """The budget of a search; with a budget in minutes measured once, and the same at every later start.

    Args:
        problem: the search.
        keep: write what was measured to the search's folder.

    Raises:
        StorageError: ``budget.json`` is damaged.
    """
    config, path = problem.config, problem.out / BUDGET_FILE
    if config.budget_minutes is None:
        return planned_budget(config, len(problem.data.train))
    stored = read_model(path, ImageBudget) if path.exists() else None
    if stored is not None and stored.identity == problem.identity:
        return float(stored.images)
    rate = images_per_second(problem.space, problem.data, problem.latency, config, problem.workers)
    images = max(1, int(60 * config.budget_minutes * rate))
    say(f"search: {config.budget_minutes:g} minutes pay for about {images:,} training images here")
    if keep and problem.workers.rank == 0:
        write_json(path, ImageBudget(identity=problem.identity, images=images).model_dump())
    problem.workers.wait()
    return float(images)
