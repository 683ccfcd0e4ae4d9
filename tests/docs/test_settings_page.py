"""The reference of settings is the one that the models make, and leaves nothing unsaid."""

import importlib.machinery
import importlib.util

import pytest
from documented import ROOT

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.settings import nested_model
from tvmfbnet.training.config import TrainConfig

_loader = importlib.machinery.SourceFileLoader("settings_page", str(ROOT / "scripts/settings_page"))
settings_page = importlib.util.module_from_spec(importlib.util.spec_from_loader("settings_page", _loader))
_loader.exec_module(settings_page)


def test_the_page_of_settings_is_up_to_date():
    assert settings_page.PAGE.read_text() == settings_page.page(), "run scripts/settings_page"


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
