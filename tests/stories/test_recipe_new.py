"""A recipe that `recipe new` printed runs once the lines are edited that its own comments say must be."""

import json

import pytest
import yaml
from newcomer import TARGET, make_photos, tvmfbnet

from tvmfbnet.pipeline.recipe import Recipe

# As small as a space can be, for the test's sake; its classes are those of the images.
SPACE = """
input: {channels: 3, height: 16, width: 16}
classes: 10
stem: {channels: 8, stride: 2}
stages:
  - {channels: 8, layers: 2, stride: 2}
blocks: [k3_e1, skip]
last_channels: 16
"""
# Settings that make it short; all of them are lines of the printed file, with or without a `#` before them.
SHORT = {
    "tune": {"trials": "1", "batch": "1", "measure_share": "1.0"},
    "search": {
        **{"epochs": "2", "warmup_epochs": "1", "batch_size": "16", "theta_batch_size": "16", "train_images": "100"},
        **{"candidates": "2", "screened": "4", "bn_images": "32", "threads": "1", "device": "cpu"},
    },
    "train": {"epochs": "1", "warmup_epochs": "0", "batch_size": "16", "threads": "1", "device": "cpu"},
}


def edited(text, changes):
    """The file with some settings changed, as an editor does it line by line."""
    section, lines, left = "", [], {(name, key) for name, keys in changes.items() for key in keys}
    for line in text.splitlines():
        if line and line[0] not in "# ":
            section = line.split(":")[0]
        key = line.strip().lstrip("#").split(":")[0]
        if (section, key) in left and not line.strip().startswith("# "):
            left.discard((section, key))
            line = f"  {key}: {changes[section][key]}"
        lines.append(line)
    assert not left, f"the file has no line for {left}"
    return "\n".join(lines) + "\n"


def test_a_new_recipe_is_whole_as_it_is_printed_and_comments_every_line(tmp_path):
    text = tvmfbnet(tmp_path, "recipe", "new", "--target", "rpi4", "--data", "imagefolder:photos").stdout
    assert Recipe.model_validate(yaml.safe_load(text)).target == "rpi4"
    first = text.partition("description:")[0]
    assert "Edit target, space and data; all else may stay" in first and "tvmfbnet run FILE.yaml" in first
    (tmp_path / "mine.yaml").write_text(text)
    printed = tvmfbnet(tmp_path, "run", "mine.yaml", "--print-config").stdout
    assert yaml.safe_load(printed) == yaml.safe_load(text) and not (tmp_path / "runs").exists()
    assert printed in text, "the same file without its first lines"


@pytest.mark.rpc
@pytest.mark.slow
def test_a_new_recipe_runs_to_its_verdict(tmp_path):
    make_photos(tmp_path / "photos", ["cat", "dog", "golden retriever"], train=40, val=10)
    (tmp_path / "mine.yaml").write_text(TARGET)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    new = ["recipe", "new", "--target", "mine.yaml", "--space", "tiny.yaml"]
    text = tvmfbnet(tmp_path, *new, "--data", "imagefolder:photos").stdout
    assert "\nlatency_target_share: 0.4\n" in text  # which no net of so small a space reaches
    text = text.replace("latency_target_share: 0.4", "latency_target_share: 0.95")
    (tmp_path / "recipe.yaml").write_text(edited(text, SHORT))
    done = tvmfbnet(tmp_path, "run", "recipe.yaml", codes=(0, 3))  # 3: this machine may be busy
    result = json.loads((tmp_path / "runs/recipe/result.json").read_text())
    assert result["verdict"] in done.stdout and result["arch"] in done.stdout
    assert result["closed_loop"]["why"] in done.stdout and "turn 1: predicted " in done.stderr
    assert result["closed_loop"]["attempts"][0]["next"] in done.stdout
    assert {notice["kind"] for notice in result["notices"]} >= {"few_images"}
    assert all(notice["text"] in done.stdout for notice in result["notices"])
    assert (tmp_path / "runs/recipe/report/index.html").is_file()
    package = json.loads((tmp_path / "runs/recipe/package/package.json").read_text())
    assert package["class_names"] == ["cat", "dog", "golden retriever"]
