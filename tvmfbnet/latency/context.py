"""What measurements, schedules and kernel times must share to be used together: one object, one key, one rule.

A :class:`Context` has a compile side (target, TVM, data type and layout) and a device side, as the device reported it:
its model, threads and cores in force. A measurement has both. A reader that asks no device (``compile``, ``latency
show``, a dry run) leaves the device side open: such a context *admits* every context that agrees with it in all known
fields. A fact that a device did not report equals only another unreported one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import digest
from tvmfbnet.machine import format_cores, parse_cores
from tvmfbnet.progress import say

# Values of facts that a device does not report; None stands for a device that was not asked.
UNKNOWN_TEXT, UNKNOWN_NUMBER = "", 0


@dataclass(frozen=True)
class Context:
    """What must be equal for two measurements to belong in one table, and for a schedule to be used.

    Attributes:
        target: its name.
        target_key: of the resolved target (:func:`tvmfbnet.targets.definition.target_key`); "" if unknown.
        tvm_version: of the TVM that compiles.
        ffi_version: of its foreign function interface; "" if unknown.
        tvm_target: full TVM target as canonical JSON.
        threads: threads that the target asks for.
        dtype: of weights and activations.
        layout: of the activations inside.
        protocol: how blocks are timed.
        device_model: as reported by the device; "" if it was not, None if the device was not asked.
        device_threads: threads in force on the device; 0 if not reported, None if it was not asked.
        device_cores: cores in force on the device, such as ``0-3``; "" if not reported, None if it was not asked.
    """

    target: str
    target_key: str
    tvm_version: str
    ffi_version: str
    tvm_target: str
    threads: int
    dtype: str
    layout: str
    protocol: str
    device_model: str | None = None
    device_threads: int | None = None
    device_cores: str | None = None

    @property
    def key(self) -> str:
        """A short name for this context: 16 hex digits, equal only for equal contexts."""
        return digest(asdict(self))

    @property
    def compile_side(self) -> Context:
        """The context without its device side."""
        return replace(self, device_model=None, device_threads=None, device_cores=None)

    @property
    def model(self) -> str:
        """The device's model for people."""
        return self.device_model or "an unknown device"

    def admits(self, other: Context) -> bool:
        """Whether ``other`` agrees with this context in all fields known here."""
        mine, others = asdict(self), asdict(other)
        return all(others[name] == value for name, value in mine.items() if value is not None)

    def describe(self) -> str:
        """One phrase for messages."""
        asked = "" if self.device_model is None else f" on {self.model}, cores {self.device_cores or 'unknown'}"
        return (
            f"{self.target}{asked}: TVM {self.tvm_version}, {self.threads} thread(s), {self.dtype}, {self.layout}, "
            f"{self.protocol}, target {self.tvm_target}"
        )

    def difference(self, other: Context) -> str:
        """How ``other`` differs from this context, for messages: ``TVM 0.26.0 instead of 0.27.0``."""
        names = {
            "tvm_version": "TVM",
            "ffi_version": "tvm-ffi",
            "tvm_target": "target",
            "threads": "threads",
            "dtype": "dtype",
            "device_model": "device",
            "device_threads": "device threads",
            "device_cores": "device cores",
        }
        mine, others = asdict(self), asdict(other)
        differences = [
            f"{word} {others[name] or 'unknown'} instead of {mine[name] or 'unknown'}"
            for name, word in names.items()
            if mine[name] is not None and mine[name] != others[name]
        ]
        return "; ".join(differences) or "another target"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Context:
        """Inverse of :meth:`to_dict`; KeyError, TypeError or ValueError on other data."""
        texts = ("target", "target_key", "tvm_version", "ffi_version", "tvm_target", "dtype", "layout", "protocol")
        if set(value) != {field.name for field in fields(cls)}:
            raise ValueError("fields are missing or unknown")
        if any(not isinstance(value[name], str) for name in texts) or not isinstance(value["threads"], int):
            raise TypeError("a field is of another type")
        if not all(isinstance(value[name], str | None) for name in ("device_model", "device_cores")):
            raise TypeError("a field is of another type")
        if not isinstance(value["device_threads"], int | None):
            raise TypeError("a field is of another type")
        return cls(**value)


def reported(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The device side of a context from the facts that a device reported; unknown where it reported none.

    Args:
        facts: as :func:`tvmfbnet.rpc.device_facts.device_facts` gives them.
    """
    threads, cores = str(facts.get("threads") or ""), str(facts.get("allowed_cores") or "")
    return {
        "device_model": str(facts.get("model") or facts.get("cpu_part") or UNKNOWN_TEXT),
        "device_threads": int(threads) if threads.isdecimal() and len(threads) < 8 else UNKNOWN_NUMBER,
        "device_cores": _normal_cores(cores),
    }


def _normal_cores(text: str) -> str:
    try:
        return format_cores(tuple(sorted(parse_cores(text))))
    except ValueError:  # what a device says may be anything
        return UNKNOWN_TEXT


def choose_context(
    recorded: Sequence[Context],
    wanted: Context | None,
    device_model: str | None = None,
    where: str = "",
    dtype: str | None = None,
) -> Context | None:
    """Chooses the context that a reader uses: the one recorded last among those that ``wanted`` admits.

    Says in one line which other device models there are. A reader who names no dtype gets the default one, whichever
    was measured last; another only where there is no other.

    Args:
        recorded: the context of every record, in the order they were written.
        wanted: what the reader knows; None admits every context.
        device_model: use only this device model.
        where: the records' file or folder, for messages.
        dtype: use only measurements in this dtype; None for that of ``wanted``, or the default.

    Returns:
        The context; None if there is none that ``wanted`` and ``dtype`` admit.

    Raises:
        LatencyError: there is no record of ``device_model``.
    """
    fitting = [context for context in recorded if wanted is None or wanted.admits(context)]
    usual = FLOAT32.name if dtype is None else dtype
    of_dtype = [context for context in fitting if context.dtype == usual]
    fitting = of_dtype if of_dtype or dtype is not None else fitting
    models = list(dict.fromkeys(context.model for context in fitting))
    if device_model is not None:
        fitting = [context for context in fitting if context.model == device_model]
        if not fitting:
            there = f"; there are: {', '.join(models)}" if models else ""
            raise LatencyError(f"{where} holds nothing of device model {device_model!r}{there}")
    if not fitting:
        return None
    chosen = fitting[-1]
    others = [model for model in models if model != chosen.model]
    if others and device_model is None:
        say(
            f"note: {where} holds several device models; {chosen.model} was measured last and is used, "
            f"not {', '.join(others)} (--device-model chooses)"
        )
    return chosen
