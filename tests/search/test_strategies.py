"""What every search strategy promises, whichever it is: tested on each that is registered."""

import json
import math

import numpy as np
import pytest
import torch
from test_search_run import TINY, table_of

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import ConfigError, ConstraintError, StorageError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.report.page import write_report
from tvmfbnet.run_files import read_run_file
from tvmfbnet.search import short_training
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint, parse_bound
from tvmfbnet.search.derive import arch_string, choice_of
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.predictor.candidates import Candidates
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.quantities.params import params_costs
from tvmfbnet.search.result import checks_of, read_result
from tvmfbnet.search.search import choose_again, sample_run, search
from tvmfbnet.search.short_training import ShortTraining
from tvmfbnet.search.strategies import STRATEGY_NAMES, strategy_named
from tvmfbnet.search.strategies.evaluating import ArchProblem, EvaluatingStrategy
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.counts import count_arch, count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train
from tvmfbnet.training.workers import Workers


class Searched:
    """A tiny search under a latency target and a bound on parameters that both exclude archs."""

    def __init__(self, space, data, folder, strategy, once=None):
        self.space, self.data, self.strategy, self.folder, self._once = space, data, strategy, folder, once
        self.table = table_of(space)
        self.latency, self.params = latency_costs(self.table, space), params_costs(space)
        self.target_ms = self.latency.least + 0.7 * (self.latency.most - self.latency.least)
        self.most_params = math.floor(self.params.least + 0.7 * (self.params.most - self.params.least))

    def config(self, **changes):
        settings = {**TINY, "strategy": self.strategy, "latency_target_ms": self.target_ms, "finalist_steps": 4}
        settings |= {"target_tolerance": 0.2, "constraints": [f"params<={self.most_params}"]}
        return SearchConfig(**{**settings, **changes})

    def go(self, name="run/search", **changes):
        return self._search(self.folder / name, self.config(**changes))

    def done(self, name="run/search"):
        """The same in a folder of that name, run once for all tests."""
        return self._once.copy(self.strategy, lambda folder: self._search(folder, self.config()), self.folder / name)

    def _search(self, folder, config):
        return search(self.space, self.data, self.table, config, folder)

    def of(self, arch):
        """Latency by the table, and parameters as counted."""
        parsed = parse_arch(arch, self.space)
        return self.table.arch_ms(parsed, self.space), count_arch(parsed, self.space).params


@pytest.fixture(params=STRATEGY_NAMES)
def searched(request, once, tmp_path):
    return Searched(once.space, once.data, tmp_path, request.param, once)


def test_archs_meet_all_constraints_are_distinct_and_best_first(searched):
    result = searched.done()
    assert result.strategy == searched.strategy and result.candidates[0] == result.best
    assert len({candidate.arch for candidate in result.candidates}) == len(result.candidates) > 1
    accuracies = [candidate.accuracy for candidate in result.candidates]
    assert accuracies == sorted(accuracies, reverse=True) and all(0 <= accuracy <= 1 for accuracy in accuracies)
    for candidate in result.candidates:
        latency_ms, params = searched.of(candidate.arch)
        assert candidate.predicted_ms == pytest.approx(latency_ms) and latency_ms <= searched.target_ms
        assert params <= searched.most_params
        assert [(c.quantity, c.value, c.met) for c in candidate.constraints] == [
            ("latency", pytest.approx(latency_ms), True),
            ("params", params, True),
        ]


def test_its_records_are_read_by_all_that_come_after(searched):
    result = searched.done()
    run = searched.folder / "run"
    (run / "recipe.yaml").write_text("space: tiny\n")
    folder, record = read_result(run)
    assert folder == run / "search" and record["strategy"] == searched.strategy
    assert record["config"]["constraints"] == [f"params<={searched.params.quantity.exact(searched.most_params)}"]
    assert record["best"]["constraints"] == [check.to_dict() for check in result.best.constraints]
    assert [row["arch"] for row in read_run_file(run, "search/archs.json")] == [c.arch for c in result.candidates]
    assert read_run_file(run, "search/search.json")["best"]["constraints"][1]["bound"] == searched.most_params
    assert checks_of(run, result.best.arch) == list(result.best.constraints)
    page = write_report(run).read_text()
    value = searched.params.quantity.text(result.best.constraints[1].value)
    assert f"<td>{value} of at most " in page and ": met</td>" in page and f"<td>{searched.strategy}</td>" in page
    trained = TrainConfig(epochs=1, warmup_epochs=0, batch_size=16, device="cpu", threads=1)
    train(parse_arch(result.best.arch, searched.space), searched.space, searched.data, trained, run / "train")
    assert (run / "train/net.pt").is_file()


def test_the_same_seed_gives_the_same_and_a_second_start_trains_nothing(searched, monkeypatch):
    first = searched.done("first")
    assert searched.go("second").candidates == first.candidates

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim.SGD, "step", forbidden)
    assert searched.go("first") == first


def test_interrupted_anywhere_it_ends_bit_equal(searched, monkeypatch):
    whole = searched.done("whole")
    real = torch.nn.functional.cross_entropy

    for after in (1, 6, 8):  # steps of one start, each of which resumes where the last one stopped
        left = iter(range(after))

        def interrupted(*arguments, left=left, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(torch.nn.functional, "cross_entropy", interrupted)
            with pytest.raises(KeyboardInterrupt):
                searched.go("killed")
        assert not (searched.folder / "killed/search.json").exists()
    again = searched.go("killed")
    assert again.candidates == whole.candidates and again.theta == whole.theta
    assert (searched.folder / "killed/archs.json").read_text() == (searched.folder / "whole/archs.json").read_text()
    records = [json.loads((searched.folder / name / "search.json").read_text()) for name in ("killed", "whole")]
    assert all(record.pop("spent_seconds") > 0 for record in records)
    assert records[0] == records[1]


def test_the_choice_is_repeated_for_other_latencies_and_keeps_the_other_constraints(searched):
    searched.done()
    run = searched.folder / "run"
    slower = choose_again(run, 1.1)
    assert slower
    for candidate in slower:
        latency_ms, params = searched.of(candidate.arch)
        assert candidate.predicted_ms == pytest.approx(1.1 * latency_ms) and params <= searched.most_params
        assert candidate.predicted_ms <= searched.target_ms and candidate.accuracy is not None
    target_ms = 0.9 * searched.target_ms
    assert all(candidate.predicted_ms <= target_ms for candidate in choose_again(run, target_ms=target_ms))
    with pytest.raises(ConstraintError, match="reachable are"):
        choose_again(run, 10.0)


def test_more_archs_are_sampled_and_judged_without_a_trace(searched):
    searched.done()
    run = searched.folder / "run"
    before = {path: path.read_bytes() for path in (run / "search").iterdir()}
    bound = parse_bound(f"params<={searched.most_params}")
    drawn = sample_run(run, 6, 0, searched.target_ms, validate=True, bounds=[bound])
    assert drawn == sample_run(run, 6, 0, searched.target_ms, validate=True, bounds=[bound])
    assert len({candidate.arch for candidate in drawn}) == 6
    for candidate in drawn:
        latency_ms, params = searched.of(candidate.arch)
        assert latency_ms <= searched.target_ms and params <= searched.most_params and 0 <= candidate.accuracy <= 1
    assert {path: path.read_bytes() for path in (run / "search").iterdir()} == before
    free = sample_run(run, 30, 0)
    assert any(searched.of(c.arch)[1] > searched.most_params for c in free), "no bound but those that were asked for"
    with pytest.raises(ConstraintError, match="a bound on params of 1: reachable are"):
        sample_run(run, 6, 0, bounds=[parse_bound("params<=1")])


def test_no_more_than_the_budget_is_spent_and_a_larger_one_is_used(searched):
    images = len(load_data(searched.data, 28, 28, 1, 10).train)
    plan = strategy_named(searched.strategy).plan
    spent = []
    for epochs in (3, 5):
        result = searched.done("3") if epochs == TINY["epochs"] else searched.go(f"{epochs}", epochs=epochs)
        equal = strategy_named("differentiable").plan(searched.config(epochs=epochs), images).images
        assert 0 < result.spent_images <= equal
        assert result.spent_images <= plan(searched.config(epochs=epochs), images).images * (1 + 1e-9)
        record = json.loads((searched.folder / f"{epochs}/search.json").read_text())
        assert record["spent_images"] == result.spent_images
        assert record["spent_seconds"] == result.spent_seconds > 0
        spent.append(result.spent_images)
    assert spent[1] > spent[0]


def test_a_search_under_another_strategy_or_other_constraints_is_refused_in_its_folder(searched):
    searched.done()
    other = next(name for name in STRATEGY_NAMES if name != searched.strategy)
    state = strategy_named(searched.strategy).state_file
    with pytest.raises(StorageError, match=rf"{state} .*strategy was {searched.strategy}, now {other}"):
        searched.go(strategy=other)
    with pytest.raises(StorageError, match=rf"{state} .*constraints was params<=\S+, now none"):
        searched.go(constraints=[])
    with pytest.raises(StorageError, match=rf"{state} .*constraints was params<=\S+, now params<=2k"):
        searched.go(constraints=["params<=2k"])


def test_parameters_alone_may_be_bounded(searched):
    result = searched.go(latency_target_ms=None)
    assert all([c.quantity for c in candidate.constraints] == ["params"] for candidate in result.candidates)
    assert all(searched.of(candidate.arch)[1] <= searched.most_params for candidate in result.candidates)
    with pytest.raises(StorageError, match="had no latency target"):
        choose_again(searched.folder / "run")


def test_without_constraints_any_arch_may_be_found(searched):
    result = searched.go(latency_target_ms=None, constraints=[])
    assert result.candidates and not result.best.constraints


def test_contradicting_constraints_are_refused_before_anything_is_written(searched):
    with pytest.raises(ConstraintError, match="reachable are"):
        searched.go(constraints=["params<=5"])
    # Where small blocks are slow ones, an arch that is fast has many parameters.
    parts = searched.space.distinct_parts()
    cells = {part: Cell(0.01 + 1.0 / (1 + count_part(part).params)) for part in parts}
    searched.table = LatencyTable(cells, overhead_ms=0.005, name="opposed")
    least_ms, least_params = latency_costs(searched.table, searched.space).least, searched.params.least
    with pytest.raises(ConstraintError, match=r"meets latency<=\S+ and params<=\S+ together; with params<="):
        searched.go(latency_target_ms=1.001 * least_ms, constraints=[f"params<={math.ceil(least_params)}"])
    assert not (searched.folder / "run").exists()


def test_a_damaged_state_is_one_line_that_names_the_file(searched):
    searched.done()
    file = searched.folder / "run/search" / strategy_named(searched.strategy).state_file
    file.write_bytes(b"{torn")
    with pytest.raises(StorageError, match=file.name) as caught:
        searched.go()
    assert "\n" not in str(caught.value)


def test_an_unknown_strategy_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=f"or '{STRATEGY_NAMES[-1]}'"):
        SearchConfig(strategy="psychic")
    with pytest.raises(ValueError, match="no strategy is called"):
        strategy_named("psychic")


# --- strategies that judge whole archs, on a table of truth instead of trainings ---

EVALUATING = [name for name in STRATEGY_NAMES if isinstance(strategy_named(name), EvaluatingStrategy)]


class TabularTruth:
    """An evaluator that looks accuracies up: an additive truth with noise that is fixed for each arch."""

    images, steps, together = 10.0, 1, 1

    def __init__(self, space):
        generator = np.random.default_rng(0)
        self.space, self.asked = space, []
        self.gains = [generator.normal(0, 0.01, len(layer.blocks)) for layer in space.layers]

    def truth(self, arch):
        choice = choice_of(arch, self.space)
        return 0.7 + sum(gains[index] for gains, index in zip(self.gains, choice, strict=True))

    def evaluate(self, archs, stepped=lambda: None):
        self.asked += archs
        noise = {arch: np.random.default_rng(list(arch.encode())).normal(0, 0.002) for arch in archs}
        return {arch: min(1.0, self.truth(arch) + noise[arch]) for arch in archs}


def tabular_problem(truth, evaluations, seed=0, bounds=2):
    space = truth.space
    latency = latency_costs(table_of(space), space)
    target_ms = latency.least + 0.5 * (latency.most - latency.least)
    params = params_costs(space)
    constraints = (
        Constraint(latency, target_ms),
        Constraint(params, params.least + 0.8 * (params.most - params.least)),
    )
    return ArchProblem(space, latency, constraints[:bounds], 0.03, seed, Meter(truth, 10.0 * evaluations))


@pytest.mark.parametrize("name", EVALUATING)
def test_on_a_table_the_best_of_what_was_asked_is_found_and_more_questions_find_better(name):
    mean_accuracy = {}
    for evaluations in (4, 48):
        accuracies = []
        for seed in range(3):
            truth = TabularTruth(load_space("fbnet_mini"))
            problem = tabular_problem(truth, evaluations, seed, bounds=1)
            ranked = strategy_named(name).rank(problem)
            assert len(truth.asked) == len(set(truth.asked)) == evaluations
            assert problem.meter.spent_images == problem.meter.budget_images
            assert ranked[0].accuracy == max(candidate.accuracy for candidate in ranked)
            asked = max(problem.meter.accuracies.values())
            assert ranked[0].accuracy == asked or (name == "bayesian" and abs(ranked[0].accuracy - asked) < 0.02)
            assert all(candidate.meets_all for candidate in ranked)
            accuracies.append(truth.truth(ranked[0].arch))
        mean_accuracy[evaluations] = np.mean(accuracies)
    assert mean_accuracy[48] > mean_accuracy[4] + 0.005


@pytest.mark.parametrize("name", EVALUATING)
def test_a_budget_beyond_the_space_is_not_spent(name, tiny_space):
    truth = TabularTruth(tiny_space)
    problem = tabular_problem(truth, 1000)
    ranked = strategy_named(name).rank(problem)
    limits, whole = problem.constraints, np.ndindex(*(len(layer.blocks) for layer in tiny_space.layers))
    fitting = {arch_string(choice, tiny_space) for choice in whole if all(limit.met(choice) for limit in limits)}
    if name == "bayesian":  # which trains one of several archs that compute the same
        distinct = Candidates(tiny_space, limits).canonical(np.array([choice_of(arch, tiny_space) for arch in fitting]))
        fitting = {arch_string(tuple(row), tiny_space) for row in distinct.tolist()}
    assert {candidate.arch for candidate in ranked} <= fitting and len(ranked) >= 0.9 * len(fitting)


def test_a_meter_hands_out_no_more_than_its_budget_and_counts_an_arch_once():
    truth = TabularTruth(load_space("fbnet_mini"))
    archs = [candidate.arch for candidate in tabular_problem(truth, 3).random_archs(5)]
    meter = Meter(truth, 35.0)
    assert meter.affordable == 3
    assert meter.evaluate(archs[:2]) == meter.evaluate(archs[1::-1]) and meter.spent_images == 20.0
    with pytest.raises(ValueError, match="beyond the budget, which allows 1"):
        meter.evaluate(archs)


class RepeatedTruth(TabularTruth):
    """Answers differ from repetition to repetition."""

    def __init__(self, space):
        super().__init__(space)
        self.repeats = []

    def evaluate_again(self, archs, repetition, stepped=lambda: None):
        self.repeats += [(arch, repetition) for arch in archs]
        return {arch: self.truth(arch) + 0.001 * repetition for arch in archs}


def test_repeated_evaluations_are_paid_for_and_count_up():
    truth = RepeatedTruth(load_space("fbnet_mini"))
    archs = [candidate.arch for candidate in tabular_problem(truth, 3).random_archs(2)]
    meter = Meter(truth, 40.0)
    meter.evaluate(archs)
    assert meter.can_repeat and meter.evaluate_again(archs[0]) != meter.evaluate_again(archs[0])
    assert truth.repeats == [(archs[0], 1), (archs[0], 2)] and meter.spent_images == 40.0
    with pytest.raises(ValueError, match="beyond the budget"):
        meter.evaluate_again(archs[0])
    once = Meter(TabularTruth(truth.space), 40.0)
    once.evaluate(archs)
    assert not once.can_repeat
    with pytest.raises(ValueError, match="the evaluator cannot give one"):
        once.evaluate_again(archs[0])


def test_a_short_training_is_repeated_with_other_noise_and_kept(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    config, data = searched.config(finalist_steps=8), load_data(tiny_data, 28, 28, 1, 10)
    arch = arch_string((0,) * len(tiny_space.layers), tiny_space)

    def training():
        indices, file = (torch.arange(0, 60), torch.arange(60, 120)), tmp_path / "kept.json"
        return ShortTraining(
            tiny_space, data, indices, config, Workers.alone(torch.device("cpu")), {"of": "this"}, file
        )

    first, again = training(), []
    first.evaluate([arch])
    for repetition in (1, 2):
        again.append(first.evaluate_again([arch], repetition)[arch])
    record = json.loads((tmp_path / "kept.json").read_text())
    assert record["repeated"] == {arch: again} and len({*again, record["accuracies"][arch]}) > 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ShortTraining, "_train", None)
        assert [training().evaluate_again([arch], n)[arch] for n in (1, 2)] == again, "not trained again"
    del record["repeated"]  # a file of an earlier version
    (tmp_path / "kept.json").write_text(json.dumps(record))
    assert training().evaluate([arch])[arch] == record["accuracies"][arch]
    assert training().evaluate_again([arch], 1)[arch] == again[0]


def test_a_short_training_starts_learns_and_is_judged_as_its_settings_say(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    data = load_data(tiny_data, 28, 28, 1, 10)
    arch = Arch(tuple(layer.blocks[0] for layer in tiny_space.layers))
    train(arch, tiny_space, tiny_data, TrainConfig(epochs=1, warmup_epochs=0, batch_size=32, threads=1), tmp_path)

    def accuracy(start=None, **settings):
        config = searched.config(finalist_steps=8, **settings)
        indices, file = (torch.arange(0, 60), torch.arange(60, 120)), tmp_path / "kept.json"
        workers = Workers.alone(torch.device("cpu"))
        trainings = ShortTraining(tiny_space, data, indices, config, workers, {}, file, keep=False, start=start)
        return trainings.evaluate([format_arch(arch, tiny_space)])[format_arch(arch, tiny_space)]

    asked = []

    def trained_net(wanted):
        asked.append(wanted)
        return load_net(tmp_path / "net.pt")[0]

    plain = accuracy()
    assert accuracy() == plain
    with pytest.MonkeyPatch.context() as patched:  # what is judged, before it is counted
        judged = []
        patched.setattr(short_training, "accuracy", lambda net, *_: judged.append(parameters(net)) or 0.5)
        accuracy(), accuracy(weight_ema=0.9), accuracy(distil_from=str(tmp_path / "net.pt")), accuracy(trained_net)
    assert len({tuple(values) for values in judged}) == 4 and asked == [arch]
    with pytest.raises(StorageError, match=r"missing\.pt"):
        accuracy(distil_from=str(tmp_path / "missing.pt"))


def parameters(net):
    return [float(parameter.detach().double().sum()) for parameter in net.parameters()]


def test_random_archs_are_drawn_without_a_preference():
    problem = tabular_problem(TabularTruth(load_space("fbnet_mini")), 1)
    truth = problem.meter._evaluator
    first = [[c.arch for c in tabular_problem(truth, 1, seed, bounds=1).random_archs(20)] for seed in range(8)]
    assert len({arch for archs in first for arch in archs}) > 140, "another seed draws others"
    starts = {archs[0].split("/")[0] for archs in first}
    assert len(starts) > 2, "not in alphabetical order"


def test_a_budget_too_small_for_one_training_is_refused(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    with pytest.raises(ConfigError, match=r"a budget of 20 images is too small to train one arch; raise budget_images"):
        searched.go(budget_images=20)
    few = searched.go("few", budget_images=100, finalist_steps=150)
    assert len(few.candidates) == 1 and few.spent_images <= 100, "fewer steps than set, where not one is affordable"
    many = searched.go("many", budget_images=1000)
    assert 0.9 * 1000 < many.spent_images <= 1000 and len(many.candidates) > 10


def test_a_short_training_is_the_same_whatever_was_trained_before(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    searched.go("one")
    accuracies = json.loads((tmp_path / "one/evaluations.json").read_text())["accuracies"]
    assert len(accuracies) > 2
    searched.go("two", seed=1)
    again = json.loads((tmp_path / "two/evaluations.json").read_text())["accuracies"]
    assert set(again) != set(accuracies) or again != accuracies
    real = ShortTraining._train
    order = []

    def backwards(self, archs, stepped=lambda: None):
        for arch in reversed(list(archs)):
            order.append(arch)
            self.accuracies[arch] = real(self, arch, stepped)
        return {arch: self.accuracies[arch] for arch in archs}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ShortTraining, "evaluate", backwards)
        patched.setattr(ShortTraining, "together", 100)
        searched.go("backwards")
    assert order and set(order) == set(accuracies)
    ranked = json.loads((tmp_path / "backwards/archs.json").read_text())
    assert {row["arch"]: row["accuracy"] for row in ranked} == accuracies
