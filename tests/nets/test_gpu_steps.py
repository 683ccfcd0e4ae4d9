"""The benchmark of all forms of a step, at tiny sizes on a CPU: what it will do on a GPU runs from end to end."""

import json
import re
import sys

import pytest
import torch


@pytest.fixture
def benchmark(benchmark_script):
    threads = torch.get_num_threads()
    yield benchmark_script("gpu_steps")
    torch.set_num_threads(threads)


def run(benchmark, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gpu_steps.py", "--device", "cpu", "--threads", "1", *map(str, words)])
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(benchmark, "ENOUGH", 0.0)  # one step that counts
    benchmark.main()


def test_every_form_is_timed_against_the_plain_one(benchmark, monkeypatch, tiny_space_file, tmp_path, capsys):
    forms = [name for name, variant in benchmark.VARIANTS.items() if not variant.compiled]  # compiling takes a minute
    out = tmp_path / "steps.json"
    run(benchmark, monkeypatch, "--space", tiny_space_file, "--batch", 4, "--minutes", 10, "--forms",
        ",".join(forms), "--out", out)  # fmt: skip
    records = json.loads(out.read_text())["forms"]
    assert set(records) == set(forms) and all(record["seconds"] > 0 for record in records.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("plain") and len(lines) == 1 + len(forms)
    assert all(re.search(r"ms +[0-9.]+x  \(1 steps; first ", line) for line in lines[2:])


def test_a_form_that_runs_out_of_memory_is_left_out(benchmark, monkeypatch, tiny_space_file, capsys):
    real = benchmark.measure

    def measure(variant, *arguments):
        if variant.form == "sampled":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(variant, *arguments)

    monkeypatch.setattr(benchmark, "measure", measure)
    run(benchmark, monkeypatch, "--space", tiny_space_file, "--batch", 4, "--minutes", 10, "--forms", "sampled,net")
    lines = capsys.readouterr().out.splitlines()
    assert "sampled" in lines[2] and "out of memory" in lines[2] and lines[3].startswith("net")


def test_when_the_time_is_over_it_says_what_was_left_out(benchmark, monkeypatch, tiny_space_file, capsys):
    run(benchmark, monkeypatch, "--space", tiny_space_file, "--batch", 4, "--minutes", -1, "--forms", "mixture")
    assert capsys.readouterr().out.count("left out: the time is over") == 2
