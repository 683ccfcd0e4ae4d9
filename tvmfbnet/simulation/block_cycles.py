"""How many cycles a block of machine code takes on a core: asked of llvm-mca once, then kept on disk by content.

The cache is one SQLite file in a folder. Several processes may read and write it at a time: each answer is one
transaction, and two that work out the same block store the same number.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder
from tvmfbnet.progress import say
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.disassembly import disassemble
from tvmfbnet.simulation.pipeline import REVISION, schedule
from tvmfbnet.simulation.tools import find_llvm

_FILE = "block_cycles.sqlite"
_LOCK_SECONDS = 60
_ASKED = 500  # keys of one query
_NAMED = 6  # mnemonics that a warning names


class BlockCycles:
    """Cycles of blocks on one core.

    A block's cycles are those of one iteration of a steady loop of it, whether it jumps to itself or not; what
    precedes and follows a block changes nothing. Instructions that LLVM cannot schedule (system calls, atomics) take
    ``mca.unmodelled_cycles`` each, and a warning names them once.

    Args:
        core: the core.
        folder: of the cache; created if missing.

    Raises:
        UserError: LLVM's tools are missing or too old.
        StorageError: the folder cannot be written.
    """

    def __init__(self, core: Core, folder: Path) -> None:
        self._core = core
        self._llvm = find_llvm()
        self._file = make_folder(folder) / _FILE
        self._salt = f"{core.pipeline_digest} {self._llvm.version} {REVISION} ".encode()
        self._cycles: dict[str, float] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def of(self, blocks: Sequence[bytes]) -> list[float]:
        """Cycles of each block, in the order given. The same block, core and LLVM always give the same number.

        Raises:
            StorageError: the cache cannot be read or written.
        """
        with self._lock:
            keys = [self._key(block) for block in blocks]
            unread = {key for key in keys if key not in self._cycles}
            if unread:
                self._cycles |= self._stored(sorted(unread))
            unsolved = {key: block for key, block in zip(keys, blocks, strict=True) if key not in self._cycles}
            if unsolved:
                computed = dict(zip(unsolved, self._compute(list(unsolved.values())), strict=True))
                self._store(computed)
                self._cycles |= computed
            return [self._cycles[key] for key in keys]

    def _key(self, block: bytes) -> str:
        return hashlib.sha256(self._salt + block).hexdigest()

    def _compute(self, blocks: list[bytes]) -> list[float]:
        mca = self._core.mca
        listings = disassemble(self._llvm, mca.triple, blocks)
        analysed = schedule(self._llvm, mca, [listing.instructions for listing in listings])
        self._warn(analysed.lacking, sum(listing.invalid for listing in listings))
        return [
            plan.cycles + listing.invalid * mca.unmodelled_cycles
            for plan, listing in zip(analysed.schedules, listings, strict=True)
        ]

    def _warn(self, lacking: set[str], invalid: int) -> None:
        names = lacking | ({"unknown encodings"} if invalid else set())
        if names and not self._warned:
            shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            say(
                f"warning: LLVM {self._llvm.version} has no model of {shown} on core {self._core.name}: each takes "
                f"{self._core.mca.unmodelled_cycles:g} cycles"
            )
        self._warned |= names

    def _stored(self, keys: list[str]) -> dict[str, float]:
        values: dict[str, float] = {}
        with self._database() as database:
            for start in range(0, len(keys), _ASKED):
                part = keys[start : start + _ASKED]
                query = f"SELECT key, cycles FROM blocks WHERE key IN ({','.join('?' * len(part))})"
                values |= dict(database.execute(query, part))
        return values

    def _store(self, values: dict[str, float]) -> None:
        with self._database() as database:
            database.executemany("INSERT OR IGNORE INTO blocks VALUES (?, ?)", values.items())

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction on a connection. A file that is no database is set aside; all of it can be computed again."""
        try:
            database = self._opened()
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot open {self._file}: {error}") from error
        except sqlite3.DatabaseError:
            aside = self._file.with_suffix(".damaged")
            with suppress(OSError):
                self._file.replace(aside)
            say(f"warning: {self._file} was damaged and is now {aside.name}; its cycles are computed again")
            database = self._opened()
        try:
            with database:
                yield database
        except sqlite3.Error as error:
            raise StorageError(f"cannot use {self._file}: {error}") from error
        finally:
            database.close()

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=_LOCK_SECONDS)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS blocks (key TEXT PRIMARY KEY, cycles REAL) WITHOUT ROWID")
        except sqlite3.Error:
            database.close()
            raise
        return database
