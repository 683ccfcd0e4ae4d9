"""TVM's runtime for another machine is fetched without a pip of one's own, or the command that mends that is named."""

import os

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.targets import tvm_runtime


@pytest.fixture
def no_pip(tmp_path, monkeypatch):
    """An environment as uv makes it: ``python -m pip`` says what it says there."""
    (tmp_path / "pip.py").write_text("import sys\nsys.exit(f'{sys.executable}: No module named pip')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.usefixtures("no_pip")
def test_without_pip_the_one_that_python_carries_along_is_run(tmp_path, monkeypatch):
    if tvm_runtime.carried_pip() is None:
        pytest.skip("this Python carries no pip")
    empty = tmp_path / "index"
    empty.mkdir()
    # It is a real pip: asked for a package that an empty folder does not hold, it says so itself.
    with pytest.raises(
        UserError, match=r"could not fetch a test: .*nothing-there.*no pip of its own: uv pip install pip"
    ):
        tvm_runtime._pip(["download", "--no-index", "--find-links", str(empty), "nothing-there"], "a test")
    tvm_runtime._pip(["--version"], "a test")


@pytest.mark.usefixtures("no_pip")
def test_without_any_pip_the_command_that_mends_it_is_named(monkeypatch):
    monkeypatch.setattr(tvm_runtime, "carried_pip", lambda: None)
    with pytest.raises(UserError, match=r"pip is missing in this environment.*`uv pip install pip`"):
        tvm_runtime._pip(["--version"], "a test")
