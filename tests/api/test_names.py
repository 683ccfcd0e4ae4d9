"""``import tvmfbnet`` costs nothing, and every public name is there, typed, documented and lazy."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvmfbnet as tf
from tvmfbnet import errors

PACKAGE = Path(tf.__file__).parent
HEAVY = {"torch", "tvm", "numpy", "pydantic", "scipy", "xgboost", "yaml", "rich", "typer"}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def loaded_after(code):
    return set(json.loads(python(f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))").stdout))


def test_importing_the_package_loads_nothing_but_the_standard_library():
    own = {name for name in loaded_after("import tvmfbnet") if name.startswith("tvmfbnet")}
    assert own == {"tvmfbnet"}
    assert not HEAVY & loaded_after("import tvmfbnet")


def test_importing_the_package_takes_less_than_a_tenth_of_a_second():
    code = "import time\nbefore = time.process_time()\nimport tvmfbnet\nprint(time.process_time() - before)"

    def seconds():  # of the processor, which others may use as well
        return float(python(code).stdout)

    assert min(seconds() for _ in range(3)) < 0.1


def test_a_space_and_an_arch_need_no_numbers_and_a_table_no_torch():
    assert not (HEAVY - {"pydantic", "yaml"}) & loaded_after(
        "import tvmfbnet as tf; tf.parse_arch('k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3', tf.Space.load('fbnet_mini'))"
    )
    assert not {"torch", "tvm"} & loaded_after(
        "import tvmfbnet as tf\ntf.LatencyTable, tf.Target.load('rpi4'), tf.SearchConfig(epochs=3), tf.Recipe, tf.tune"
    )


def typed_homes():
    """Where type checkers find each public name: the imports of ``TYPE_CHECKING``."""
    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_and_the_running_program_find_the_same_names():
    assert typed_homes() == tf._HOME_OF
    assert {*tf._HOME_OF, "__version__"} == set(tf.__all__)
    assert tf.__all__ == sorted(tf.__all__), "the list is sorted as ruff sorts it"
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("name", tf.__all__)
def test_a_public_name_is_there_and_documented(name):
    assert name in dir(tf)
    value = tf.public(name) if name != "__version__" else tf.__version__
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", value)
    elif name != "Event":  # a union of the events
        assert inspect.getdoc(value) and value.__name__ == name
        assert getattr(importlib.import_module(value.__module__), name) is value


def test_every_error_of_the_package_is_public():
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == {name for name in tf.__all__ if name.endswith("Error")}, "add it to tvmfbnet/__init__.py"


@pytest.mark.parametrize("first", ["", "import tvmfbnet.search.config", "from tvmfbnet.search import config"])
def test_search_is_the_function_whatever_was_imported_before(first):
    code = f"{first}\nimport tvmfbnet as tf\nimport tvmfbnet.search.config as config\nassert callable(tf.search)\n"
    code += "assert config.SearchConfig is tf.SearchConfig\n"
    code += "try: tf.search()\nexcept TypeError as error: print(error)"
    assert "missing 3 required positional arguments: 'space', 'data', and 'table'" in python(code).stdout


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tvmfbnet' has no attribute 'serach'"):
        tf.serach  # noqa: B018
