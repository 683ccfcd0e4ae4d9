"""Finished runs for tests of what is made of them: the files that a run leaves, with a net whose weights are random."""

import json
from dataclasses import replace

import yaml

from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.latency.sources.registry import source_of
from tvmfbnet.latency.table_io import table_content
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.checkpoint import save_checkpoint

LATENCY = "simulated:gflops=16,gbps=8"


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_finished_run(folder, recipe, text):
    """A finished run as ``run`` leaves it; nothing was tuned for it, as its latencies are a processor's.

    Args:
        folder: the run's, to be made.
        recipe: target, space, data, search and train; a dtype.
        text: the found arch.
    """
    space, dtype = load_space(str(recipe["space"])), recipe.get("dtype", "float32")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"description": "a run", **recipe, "latency": LATENCY}))
    write_json(folder / "identity.json", {"data": "0" * 32})
    table = replace(source_of(LATENCY).load(space.distinct_parts()), stated_dtype=dtype, name="host")
    write_json(folder / "table.json", {**table_content(table, space.distinct_parts()), "space": space.to_dict()})
    seconds = {"search": 5.0, "compile": 2.0, "bench": 3.0}
    told = {"arch": text, "target": "host", "test_accuracy": 0.5, "predicted_ms": 0.5, "latency_target_ms": 1.0}
    write_json(folder / "result.json", {**told, "stage_seconds": seconds})
    net = {"arch": text, "space": space.to_dict(), "test_accuracy": 0.5, "data": recipe["data"]}
    (folder / "train").mkdir()
    weights = untrained_net(parse_arch(text, space), space).state_dict()
    save_checkpoint(folder / "train/net.pt", "net", {**net, "state_dict": weights})
    return folder
