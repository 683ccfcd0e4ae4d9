"""Searches that several tests of a file start from: each is run once, and every test gets a copy of its folder."""

import shutil
from dataclasses import replace

import pytest
from tiny import TINY_SPACE, write_tiny_data

from tvmfbnet.space.registry import load_space


class Once:
    """Folders and results of searches that have ended, on one space and one data set."""

    def __init__(self, folder):
        (folder / "tiny.yaml").write_text(TINY_SPACE)
        self.space, self.data = load_space(str(folder / "tiny.yaml")), write_tiny_data(folder)
        self._folder, self._results = folder, {}

    def copy(self, name, run, to):
        """The result of ``run``, which got a folder to search in, and a copy of that folder at ``to``."""
        if name not in self._results:
            self._results[name] = run(self._folder / name)
        shutil.copytree(self._folder / name, to)
        return replace(self._results[name], out=to)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """What tests of one file share."""
    return Once(tmp_path_factory.mktemp("once"))
