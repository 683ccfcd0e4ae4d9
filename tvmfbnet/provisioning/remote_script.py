"""Scripts for foreign shells: a device's login shell may be fish or csh, and its profile may print text.

A script is sent as one word that every shell parses alike, and is run by ``sh``. Its output is enclosed in marks, which
separate it from whatever the profile prints before and after.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

# Bytes that mean the same inside single quotes of sh, fish and csh, inside double quotes of sh, and to printf.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+.,:;=@/|&<>(){}[]*?~#^")


def for_any_shell(script: str) -> str:
    """A command line that runs a script in ``sh`` from any shell: sh, bash, zsh, fish, csh, mksh.

    Quotes, backslashes, dollars, exclamation marks and newlines are encoded as octal escapes.
    """
    data = script.encode("utf-8", "surrogateescape")
    text = "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
    return f"""sh -c 'eval "$(printf "{text}")"'"""


@dataclass(frozen=True)
class MarkedScript:
    """A script whose output, on both streams, is enclosed in two marks.

    Args:
        script: runs in a subshell; its exit code is kept.
        mark: a unique text.
    """

    script: str
    mark: str

    @classmethod
    def of(cls, script: str) -> MarkedScript:
        """Wraps a script with a random mark."""
        return cls(script, f"tvmfbnet-{secrets.token_hex(8)}")

    @property
    def text(self) -> str:
        """The script to send."""
        return f"{self._print('B')}\n(\n{self.script}\n)\ncode=$?\n{self._print('E')}\nexit $code"

    def _print(self, which: str) -> str:
        return f"printf {self.mark}{which}; printf {self.mark}{which} >&2"

    def inside(self, output: str) -> str | None:
        """A stream's text between the marks; None if the script never started."""
        _, begin, marked = output.partition(f"{self.mark}B")
        return marked.partition(f"{self.mark}E")[0] if begin else None
