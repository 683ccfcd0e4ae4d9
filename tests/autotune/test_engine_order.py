"""On a simulated device rounds are recorded in the order they began, however fast this machine built and timed them."""

import queue
import random
import time
from types import SimpleNamespace

import pytest

from tvmfbnet.autotune.engine import Engine
from tvmfbnet.autotune.engine_options import Budget, EngineOptions
from tvmfbnet.autotune.trial_runner import Activity, News, OpenRound
from tvmfbnet.rpc.session import KernelTiming

ROUNDS, TRIALS, IN_FLIGHT = 6, 3, 3


class Recorder(Engine):
    """An engine without tasks, builders and devices: rounds begin one after another, and their news are scripted."""

    def __init__(self, in_order, seed):
        self._in_order, self._early, self._in_flight = in_order, [], []
        self._news, self._activity = queue.SimpleQueue(), Activity()
        self.budget, self.options = Budget(ROUNDS * TRIALS), EngineOptions()
        self.order, self.begun, self._random = [], [], random.Random(seed)
        self._untold = {}

    def _trained_cost_model(self):
        return None

    def _choose(self, in_time):
        return len(self.begun) if len(self.begun) < ROUNDS else None

    def _start(self, state, runner, cost_model):
        opened = OpenRound(state, [None] * TRIALS, None)
        self.begun.append((state, len(self.order)))  # what was recorded when it was proposed
        self._in_flight.append(opened)
        self._untold[id(opened)] = [News(opened, place, KernelTiming((1.0,))) for place in range(TRIALS)] + [
            News(opened)
        ]

    def _next_news(self):
        waiting = [news for news in self._untold.values() if news]
        if waiting:  # any round in flight tells next
            self._news.put(self._random.choice(waiting).pop(0))
        return super()._next_news()

    def _take(self, news):
        self.order.append((news.told_by.state, news.place))
        if news.timing is None:
            self._in_flight.remove(news.told_by)

    def _spent(self):
        return 0

    def _aim(self):
        return ROUNDS * TRIALS

    def _note(self, started):
        return ""


def recorded(in_order, seed):
    engine = Recorder(in_order, seed)
    reporter = SimpleNamespace(retotal=lambda total: None, update=lambda done, note: None)
    engine._loop(None, IN_FLIGHT, reporter, time.monotonic())
    return engine


@pytest.mark.parametrize("seed", range(5))
def test_rounds_are_recorded_and_proposed_in_one_order_whichever_ends_first(seed):
    engine = recorded(True, seed)
    assert engine.order == [(number, place) for number in range(ROUNDS) for place in (*range(TRIALS), -1)]
    # A round is proposed when as much is recorded in every run: with the end of the round that makes room for it.
    whole = TRIALS + 1
    assert engine.begun == [(number, max(0, number - IN_FLIGHT + 1) * whole) for number in range(ROUNDS)]


def test_on_a_device_news_is_recorded_as_it_comes():
    assert len({tuple(recorded(False, seed).order) for seed in range(5)}) > 1
