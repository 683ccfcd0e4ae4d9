"""Energy, on made-up sysfs trees: what each source tells, and that idle power is subtracted."""

import itertools
import sys
import time
from contextlib import contextmanager

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.profiling.energy import energy_per_inference
from tvmfbnet.profiling.energy_sources import source_named


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


class RaplMachine:
    """Two zones that count: 10 W idle, and what each inference takes above that; its clock is no real one."""

    def __init__(self, system, inference_joules=0.05, range_uj=10**12):
        powercap = system / "class/powercap"
        self.zones = [write(powercap / "intel-rapl:0", name="package-0", max_energy_range_uj=range_uj)]
        self.zones.append(write(powercap / "intel-rapl:0:1", name="dram", max_energy_range_uj=range_uj))
        write(powercap / "intel-rapl:0:0", name="core", energy_uj=10**9, max_energy_range_uj=range_uj)  # in package-0
        write(powercap / "intel-rapl:1", name="psys", energy_uj=10**9, max_energy_range_uj=range_uj)  # has all of it
        self.now, self.joules, self.range, self.inference = 0.0, 0.0, range_uj, itertools.cycle([inference_joules])
        self.spend(0.0)

    def spend(self, joules):
        self.joules += joules
        for zone, share in zip(self.zones, (0.8, 0.2), strict=True):
            (zone / "energy_uj").write_text(f"{int(self.joules * share * 1e6) % self.range}\n")

    def clock(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
        self.spend(10.0 * seconds)

    def run(self):
        self.pause(1 / 16)
        self.spend(next(self.inference))

    def measure(self, source, **settings):
        return energy_per_inference(self.run, source, 1.0, clock=self.clock, pause=self.pause, **settings)


@pytest.mark.parametrize("range_uj", [10**12, 15_000_000])  # the counters start over in every round
def test_an_inferences_energy_is_what_it_takes_above_idle(tmp_path, range_uj):
    machine = RaplMachine(tmp_path, range_uj=range_uj)
    energy = machine.measure(source_named("auto", tmp_path), rounds=4)
    assert (energy.source, energy.rounds) == ("rapl", 4)
    assert energy.inferences == pytest.approx(4 * 16)
    assert energy.idle_watts == pytest.approx(10.0, rel=1e-3)
    assert energy.energy_mj == pytest.approx(50.0, rel=1e-3)
    assert energy.gross_mj == pytest.approx(50.0 + 625.0, rel=1e-3)
    assert energy.spread_mj < 0.05
    assert "mJ an inference above idle" in energy.describe() and "rapl" in energy.describe()


def test_the_spread_is_that_of_the_rounds(tmp_path):
    machine = RaplMachine(tmp_path)
    machine.inference = iter([0.04] * 17 + [0.05] * 16 + [0.06] * 16)  # one more to warm up
    energy = machine.measure(source_named("rapl", tmp_path), rounds=3)
    assert energy.energy_mj == pytest.approx(50.0, rel=1e-3)
    assert energy.spread_mj == pytest.approx(10.0, rel=1e-3)


def test_what_cannot_be_told_from_idle_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not tell inferences from an idle machine"):
        RaplMachine(tmp_path, inference_joules=-0.01).measure(source_named("rapl", tmp_path), rounds=2)


def taken_in(source, seconds=0.2, change=lambda: None):
    """Joules that a source tells in some real time, and that time."""
    start = time.monotonic()
    with source.running() as joules:
        time.sleep(seconds)
        change()
        taken = joules()
    return taken, time.monotonic() - start


def test_a_phones_rails_add_up(tmp_path):
    folder = write(tmp_path / "bus/iio/devices/iio:device0", energy_value="")

    def rails(cpu, memory):
        lines = f"t=4242\nCH0(T=4242)[S2M_VDD_CPUCL2], {cpu}\nCH1(T=4242)[S5M_VDD_MEM], {memory}\n"
        (folder / "energy_value").write_text(lines)

    rails(1_000_000, 500_000)
    source = source_named("auto", tmp_path)
    taken, _ = taken_in(source, 0.0, lambda: rails(3_000_000, 1_000_000))
    assert (source.name, taken) == ("odpm", pytest.approx(2.5))
    with pytest.raises(UserError, match="odpm told 2 counters of energy and now 0: measure again"):
        taken_in(source, 0.0, lambda: (folder / "energy_value").write_text("t=4242\n"))


def test_a_boards_sensor_is_summed_up_over_time(tmp_path):
    write(tmp_path / "class/hwmon/hwmon0", name="coretemp", power1_input=10**9)
    write(tmp_path / "class/hwmon/hwmon1", name="ina219", power1_input=2_000_000)
    source = source_named("auto", tmp_path)
    taken, seconds = taken_in(source)
    assert source.name == "hwmon" and 0.2 * 2 <= taken <= 2 * seconds


def test_a_battery_tells_only_while_it_discharges(tmp_path):
    write(tmp_path / "class/power_supply/usb", type="USB")
    battery = write(tmp_path / "class/power_supply/battery", type="Battery", status="Discharging")
    write(battery, current_now=-500_000, voltage_now=4_000_000)  # 2 W; the sign is the maker's choice
    source = source_named("auto", tmp_path)
    taken, seconds = taken_in(source)
    assert source.name == "battery" and 0.2 * 2 <= taken <= 2 * seconds
    write(battery, power_now=3_000_000)
    taken, seconds = taken_in(source)
    assert 0.2 * 3 <= taken <= 3 * seconds
    write(battery, status="Charging")
    with pytest.raises(UserError, match="battery is not discharging"):
        taken_in(source)


def test_a_command_tells_joules(tmp_path):
    counter = write(tmp_path, joules=1.5) / "joules"
    source = source_named(f"command:cat {counter}", tmp_path)
    taken, _ = taken_in(source, 0.0, lambda: counter.write_text("4.0\n"))
    assert taken == pytest.approx(2.5)
    with pytest.raises(UserError, match="told 4 joules and then 3: it must tell all that was taken so far"):
        taken_in(source, 0.0, lambda: counter.write_text("3.0\n"))


def test_a_command_that_takes_long_to_tell_costs_no_inference(tmp_path):
    machine = RaplMachine(tmp_path)

    class Slow(type(source_named("rapl", tmp_path))):
        def running(self):
            @contextmanager
            def slow():
                with source_named("rapl", tmp_path).running() as joules:
                    yield lambda: (machine.pause(1.5), joules())[1]

            return slow()

    energy = machine.measure(Slow("slow", list, ()), rounds=3)
    assert energy.idle_watts == pytest.approx(10.0, rel=1e-3)
    assert energy.energy_mj == pytest.approx(50.0, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("solar", "unknown source of energy 'solar': write auto, rapl, odpm, hwmon, battery or command:"),
        ("auto", "this machine has nothing that tells the energy it takes"),
        ("rapl", "this machine has no rapl that tells the energy it takes"),
        ("command:", "needs a command that prints the joules"),
        ("command:cat 'x", "cannot be read"),
    ],
)
def test_a_source_that_is_not_there_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as caught:
        source_named(text, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-command-here", "does not tell the energy"),
        ("echo warm", "does not print a number of joules: could not convert"),
        ("echo nan", "nan is none"),
        (f"{sys.executable} -c print(warm)", "joules: NameError: name 'warm' is not defined"),
        (f"{sys.executable} -c raise(SystemExit(3))", "exit code 3"),
    ],
)
def test_a_command_that_fails_says_so(tmp_path, command, said):
    with pytest.raises(UserError, match=said):
        taken_in(source_named(f"command:{command}", tmp_path), 0.0)


def test_a_damaged_or_locked_counter_is_named(tmp_path):
    machine = RaplMachine(tmp_path)
    source = source_named("rapl", tmp_path)
    (machine.zones[0] / "energy_uj").write_text("lots\n")
    with pytest.raises(UserError, match="energy_uj holds no number: 'lots'"):
        taken_in(source, 0.0)
    (machine.zones[0] / "energy_uj").unlink()
    with pytest.raises(UserError, match="energy_uj cannot be read"):
        taken_in(source, 0.0)
