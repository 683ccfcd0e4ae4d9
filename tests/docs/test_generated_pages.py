"""Generated pages of the reference are up to date, and every setting says what it means."""

import importlib.machinery
import importlib.util

import pytest
from documented import ROOT

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.settings import nested_model
from tvmfbnet.training.config import TrainConfig


def load_script(name):
    """A script of ``scripts/`` as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(script)
    return script


settings_page = load_script("settings_page")


@pytest.mark.parametrize("name", ["settings_page", "commands_page", "python_page"])
def test_a_generated_page_is_up_to_date(name):
    script = load_script(name)
    assert script.PAGE.read_text() == script.page(), f"run scripts/{name}"


@pytest.mark.parametrize("model", [model for _, _, model in settings_page.SECTIONS])
def test_every_setting_says_what_it_means(model):
    assert not [n for n, f in model.model_fields.items() if not f.description and nested_model(f) is None]


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 29, 30, 90, 91, 1000])
def test_epochs_set_alone_contradict_nothing(epochs):
    search = SearchConfig.model_validate({"epochs": epochs})
    assert search.warmup_epochs < epochs
    assert TrainConfig.model_validate({"epochs": epochs}).warmup_epochs < epochs
    assert search.temperature_at(epochs - 1) > 0.05
    paper = SearchConfig()
    assert (paper.warmup_epochs, TrainConfig().warmup_epochs) == (10, 3)
    if epochs >= 90:
        assert search.temperature_at(epochs) == pytest.approx(paper.temperature_at(90))
