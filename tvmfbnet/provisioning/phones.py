"""Selects one of the phones that adb lists: by serial, by ``ANDROID_SERIAL``, or one that is connected twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvmfbnet.errors import DeviceError
from tvmfbnet.progress import say


def listed_phones(output: str) -> list[tuple[str, str]]:
    """The (serial, state) pairs of ``adb devices``; serials of phones paired over Wi-Fi may contain blanks."""
    pairs = [line.rpartition("\t") for line in output.splitlines()]
    return [(serial.strip(), state.strip()) for serial, tab, state in pairs if tab and serial.strip()]


def choose_phone(
    phones: Sequence[tuple[str, str]],
    serial: str = "",
    named_by: str = "--serial",
    hardware_serial: Callable[[str], str] | None = None,
) -> str:
    """The serial of the phone to use, as ``adb -s`` takes it.

    Args:
        phones: (serial, state) pairs.
        serial: named by the user; empty for the only phone.
        named_by: the source of ``serial``, for messages.
        hardware_serial: asks a phone for ``ro.serialno``, which is the same over USB and Wi-Fi.

    Raises:
        DeviceError: no phone, several, not the named one, or not ready; says what to do.
    """
    listed = ", ".join(f"{name} ({state})" for name, state in phones) or "none"
    chosen = [(name, state) for name, state in phones if name == serial] if serial else list(phones)
    if serial and not chosen:
        source = "" if named_by == "--serial" else f" (from {named_by})"
        raise DeviceError(f"phone {serial}{source} is not connected; connected: {listed}")
    if not chosen:
        raise DeviceError("no phone is connected: plug one in, switch on USB debugging, and see `adb devices`")
    if len(chosen) > 1:
        chosen = _one_phone_twice(chosen, hardware_serial)
    if len(chosen) > 1:
        raise DeviceError(
            f"several phones are connected: choose one with --serial or ANDROID_SERIAL; connected: {listed}"
        )
    name, state = chosen[0]
    if state.startswith("unauthorized"):
        raise DeviceError(
            f"phone {name} has not allowed this computer: unlock it and accept the USB debugging question"
        )
    if state != "device":
        raise DeviceError(f"phone {name} is not ready ({state}): reconnect it, or restart adb with `adb kill-server`")
    return name


def _one_phone_twice(
    phones: list[tuple[str, str]], hardware_serial: Callable[[str], str] | None
) -> list[tuple[str, str]]:
    """The USB connection of a phone that is also connected over Wi-Fi; all connections if they are different phones."""
    if hardware_serial is None or any(state != "device" for _, state in phones):
        return phones
    try:
        numbers = {name: hardware_serial(name) for name, _ in phones}
    except DeviceError:
        return phones
    (number, *others) = set(numbers.values())
    if others or not number:
        return phones
    usb = [phone for phone in phones if phone[0] == number] or phones[:1]
    say(f"phone {number} is connected more than once ({', '.join(numbers)}); using {usb[0][0]}")
    return usb
