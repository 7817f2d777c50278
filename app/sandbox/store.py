"""The sandbox's state: tables of plain JSON rows, transactions that undo, and a journal that survives kill -9."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from app.sandbox.errors import ApiError, missing

Row = dict[str, Any]
_Frame = dict[tuple[str, str], Row | None]


class Store:
    """Rows by ``object`` name and id, oldest first. Keys that start with "_" are ours and never shown.

    A row is changed in place, after ``get`` inside a transaction (which keeps a copy for undoing). Rows are never
    removed: a deleted one stays as a stub with ``deleted`` true, so that it keeps its place as a list cursor.

    ``_world`` goes before every table's name: a shallow copy with another one is another account's state, which
    shares the transactions and the journal and sees none of these rows.
    """

    def __init__(self, journal: Path | None) -> None:
        self._tables: dict[str, dict[str, Row]] = {}
        self._frames: list[_Frame] = []
        self._journal = journal
        self._world = ""
        if journal is not None:
            self._load(journal)

    def rows(self, kind: str) -> list[Row]:
        """List what is there and not deleted, oldest first; to change one, ``get`` it."""
        return [row for row in self._table(kind).values() if not row.get("deleted")]

    def ids(self, kind: str) -> list[str]:
        """All ids that ever were, in order, deleted ones included."""
        return list(self._table(kind))

    def find(self, kind: str, id: str) -> Row | None:
        row = self._table(kind).get(id)
        if row is not None and self._frames and (self._world + kind, id) not in self._frames[-1]:
            self._frames[-1][self._world + kind, id] = deepcopy(row)
        return row

    def get(self, kind: str, id: str, *, param: str = "id", status: int = 404) -> Row:
        row = self.find(kind, id)
        if row is None or row.get("deleted"):
            raise missing(kind, id, param=param, status=status)
        return row

    def insert(self, row: Row) -> Row:
        kind, id = self._world + row["object"], row["id"]
        self._frames[-1].setdefault((kind, id), None)
        self._tables.setdefault(kind, {})[id] = row
        return row

    def forget(self, kind: str, id: str) -> None:
        """Drop a row for good (retention), which is the one thing that removes rows."""
        self.find(kind, id)
        self._table(kind).pop(id, None)

    def clear(self, *kept: str) -> None:
        """Drop the rows of every account, except this one's tables of these names."""
        keep = {self._world + kind for kind in kept}
        for kind, table in self._tables.items():
            if kind not in keep:
                for id in list(table):
                    self._frames[-1].setdefault((kind, id), table.pop(id))

    def census(self) -> dict[str, int]:
        """Count this world's objects by name."""
        tables = {kind.removeprefix(self._world): table for kind, table in self._tables.items()}
        return {
            kind: len(self.rows(kind)) for kind in sorted(tables) if kind[0] != "_" and "/" not in kind and tables[kind]
        }

    def holder(self, id: str) -> str | None:
        """Whose world has an object of this id: None if it is the platform's, or nobody's."""
        for kind, table in self._tables.items():
            if id in table:
                return kind.rpartition("/")[0] or None
        return None

    def peek(self, kind: str, id: str) -> Row | None:
        """Look at a row without meaning to change it, which spares the copy for undoing."""
        return self._table(kind).get(id)

    def locate(self, id: str) -> Row | None:
        """Find an object of this account by its id alone, to look at."""
        depth = self._world.count("/")
        tables = (t for k, t in self._tables.items() if k.startswith(self._world) and k.count("/") == depth)
        return next((table[id] for table in tables if id in table and not table[id].get("deleted")), None)

    def _table(self, kind: str) -> dict[str, Row]:
        return self._tables.get(self._world + kind, {})

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, unless the error says ``keep``. They nest; the outermost one writes the journal."""
        frame: _Frame = {}
        self._frames.append(frame)
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, ApiError) and error.keep):
                self._undo(frame)
                frame.clear()
            raise
        finally:
            self._frames.pop()
            if self._frames:
                for key, before in frame.items():
                    self._frames[-1].setdefault(key, before)
            elif frame:
                self._write(frame)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Let everything happen and then undo it: a preview is the real thing, not a second implementation."""
        frame: _Frame = {}
        self._frames.append(frame)
        try:
            yield
        finally:
            self._undo(frame)
            self._frames.pop()

    def _undo(self, frame: _Frame) -> None:
        for (kind, id), before in reversed(frame.items()):
            if before is None:
                self._tables[kind].pop(id, None)
                continue
            row = self._tables[kind].setdefault(id, before)
            if row is not before:  # in place: others hold the same dict
                row.clear()
                row.update(before)

    def _write(self, frame: _Frame) -> None:
        if self._journal is None:
            return
        changed: dict[str, dict[str, Row | None]] = {}
        for (kind, id), before in frame.items():
            row = self._tables[kind].get(id)
            if row != before:
                changed.setdefault(kind, {})[id] = row
        if not changed:
            return
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(changed) + "\n")

    def _load(self, journal: Path) -> None:
        """Replay the journal, then replace it by one line of what is left of it."""
        if journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                try:
                    changed = json.loads(line)
                except ValueError:
                    break  # the line that was being written when the process was killed
                for kind, rows in changed.items():
                    table = self._tables.setdefault(kind, {})
                    for id, row in rows.items():
                        if row is None:
                            table.pop(id, None)
                        else:
                            table[id] = row
        journal.parent.mkdir(parents=True, exist_ok=True)
        fresh = journal.with_name(journal.name + ".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(self._tables) + "\n")
        fresh.replace(journal)
