# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of ours in a configuration file that belongs to others as well.

A file such as Docker's ``daemon.json`` has several authors: the administrator, vendors' tools, this collection. What
one of them has set, the others must not lose. So each author of ours keeps a record of the values it has set and of
what was there before; only these it ever changes again or takes back.
"""

from __future__ import annotations

import copy
import enum
import json
import re
import typing as t
from dataclasses import dataclass, field

#: The way to a value: the keys from the top level down.
Path = tuple[str, ...]
Document = dict[str, t.Any]

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


class StructuredError(Exception):
    """What is wrong with a file or with what is wanted of it, in words for the operator."""


class LibraryError(StructuredError):
    """A library for a format is not installed."""


class _Missing(enum.Enum):
    """Stands for a value that is not there; ``None`` is one that is. An enumeration stays the same when copied."""

    MISSING = "nothing"


MISSING: t.Final = _Missing.MISSING


def dotted(path: Path) -> str:
    """A path as people write it; keys with other characters stand in quotes."""
    return ".".join(key if _BARE.match(key) else json.dumps(key) for key in path)


def leaves(values: t.Mapping[str, t.Any], above: Path = ()) -> dict[Path, t.Any]:
    """The single values of nested dictionaries.

    Lists are single values, and so is an empty dictionary. What is ``None`` is not wanted, and left out.
    """
    found: dict[Path, t.Any] = {}
    for key, value in values.items():
        path = (*above, str(key))
        if value is None:
            continue
        if isinstance(value, dict) and value:
            found.update(leaves(value, path))
        else:
            found[path] = value
    return found


@dataclass(frozen=True)
class Entry:
    """A value that we have set.

    Attributes:
        value: what we set it to.
        before: what was there, :data:`MISSING` for nothing.
    """

    value: t.Any
    before: t.Any = MISSING


@dataclass
class Record:
    """What one author has set in one file.

    Attributes:
        created: whether the file was not there before.
        entries: the values.
        items: items that were added to lists that others use too.
        tables: dictionaries that were not there before.
    """

    created: bool = False
    entries: dict[Path, Entry] = field(default_factory=dict)
    items: dict[Path, list[t.Any]] = field(default_factory=dict)
    tables: set[Path] = field(default_factory=set)

    def to_json(self) -> Document:
        """As it is kept on the disk."""
        return {
            "created": self.created,
            "entries": [
                {
                    "path": list(path),
                    "value": entry.value,
                    **({} if entry.before is MISSING else {"before": entry.before}),
                }
                for path, entry in sorted(self.entries.items())
            ],
            "items": [{"path": list(path), "items": items} for path, items in sorted(self.items.items())],
            "tables": [list(path) for path in sorted(self.tables)],
        }

    @classmethod
    def from_json(cls, value: t.Any) -> Record:
        """Read again what :meth:`to_json` made.

        Raises:
            StructuredError: it is something else.
        """
        try:
            return cls(
                created=bool(value["created"]),
                entries={
                    tuple(item["path"]): Entry(item["value"], item.get("before", MISSING)) for item in value["entries"]
                },
                items={tuple(item["path"]): list(item["items"]) for item in value["items"]},
                tables={tuple(path) for path in value["tables"]},
            )
        except (KeyError, TypeError) as error:
            raise StructuredError(f"not a record of values that were set ({error!r})") from error

    def joined(self, other: Record) -> Record:
        """Everything that either has: what is true while a file is being written."""
        return Record(
            created=self.created or other.created,
            entries={**other.entries, **self.entries},
            items={
                path: _union(self.items.get(path, []), other.items.get(path, []))
                for path in self.items.keys() | other.items.keys()
            },
            tables=self.tables | other.tables,
        )


@dataclass(frozen=True)
class Conflict:
    """A value of somebody else's where another one is wanted."""

    path: Path
    theirs: t.Any
    wanted: t.Any

    def __str__(self) -> str:
        return f"{dotted(self.path)} is {json.dumps(self.theirs, default=str)}, wanted {json.dumps(self.wanted)}"


@dataclass(frozen=True)
class Edit:
    """One change of a document; the value is :data:`MISSING` to take it away."""

    path: Path
    value: t.Any


@dataclass
class Merge:
    """A document with our values in it.

    Attributes:
        document: the result.
        record: what is ours in it.
        edits: the way from the former document to the result, in order.
        conflicts: values of others that stand in the way of ours; they were not touched.
    """

    document: Document
    record: Record
    edits: list[Edit] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)

    def _at(self, path: Path) -> t.Any:
        value: t.Any = self.document
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return MISSING
            value = value[key]
        return value

    def _obstacle(self, path: Path) -> Path | None:
        """The part of a path above its value that is no dictionary, if there is one."""
        for depth in range(1, len(path)):
            value = self._at(path[:depth])
            if value is MISSING:
                return None
            if not isinstance(value, dict):
                return path[:depth]
        return None

    def _put(self, path: Path, value: t.Any) -> None:
        table = self.document
        for depth, key in enumerate(path[:-1], start=1):
            if key not in table:
                table[key] = {}
                self.record.tables.add(path[:depth])
            table = table[key]
        table[path[-1]] = copy.deepcopy(value)
        self.edits.append(Edit(path, value))

    def _take(self, path: Path) -> None:
        """Take a value away, and the dictionaries of ours that are empty then."""
        table = self._at(path[:-1]) if len(path) > 1 else self.document
        del table[path[-1]]
        self.edits.append(Edit(path, MISSING))
        above = path[:-1]
        if above in self.record.tables and not self._at(above):
            self.record.tables.discard(above)
            self._take(above)

    def _give_back(self, path: Path) -> None:
        entry = self.record.entries.pop(path)
        if self._obstacle(path) is not None or self._at(path) != entry.value:
            return  # somebody else has set it since: it is theirs
        if entry.before is MISSING:
            self._take(path)
        else:
            self._put(path, entry.before)

    def release(self, wanted: t.Mapping[Path, t.Any], lists: t.Collection[Path]) -> None:
        """Give back what is ours and not wanted any more."""
        # The deepest first: what we put in the place of a single value is empty only without what is below it.
        for path in sorted(self.record.entries, key=len, reverse=True):
            entry = self.record.entries[path]
            below = entry.value == {} and any(other[: len(path)] == path for other in wanted)
            if path in lists or not (path in wanted or below):
                self._give_back(path)
        for path in list(self.record.items):
            keep = wanted[path] if path in wanted and path in lists else []
            ours = self.record.items[path]
            gone = [item for item in ours if item not in keep]
            current = self._at(path)
            if gone and isinstance(current, list):
                rest = [item for item in current if item not in gone]
                if rest != current and (rest or keep):
                    self._put(path, rest)
                elif rest != current:
                    self._take(path)
            remaining = [item for item in ours if item in keep]
            if remaining:
                self.record.items[path] = remaining
            else:
                del self.record.items[path]

    def add(self, path: Path, items: list[t.Any], takes_over: bool) -> None:
        """Add items to a list that others use too."""
        obstacle = self._obstacle(path)
        current = self._at(obstacle or path)
        if obstacle is not None or (current is not MISSING and not isinstance(current, list)):
            self._conflict(obstacle or path, path, items, takes_over)
            return
        present = [] if current is MISSING else current
        new = [item for item in items if item not in present]
        if new:
            self._put(path, [*present, *new])
            self.record.items[path] = _union(self.record.items.get(path, []), new)

    def put(self, path: Path, value: t.Any, takes_over: bool) -> None:
        """Set a value."""
        obstacle = self._obstacle(path)
        current = self._at(obstacle or path)
        owned = self.record.entries.get(path)
        if obstacle is None and current == value and type(current) is type(value):
            if owned is not None:
                self.record.entries[path] = Entry(value, owned.before)
            return
        if obstacle is None and current is not MISSING and isinstance(current, dict) and value == {}:
            return  # the dictionary that is wanted is there, with something of others' in it
        if obstacle is not None or (current is not MISSING and owned is None):
            self._conflict(obstacle or path, path, value, takes_over)
            return
        before = MISSING if owned is None else owned.before
        self._put(path, value)
        self.record.entries[path] = Entry(value, before)

    def _conflict(self, place: Path, path: Path, value: t.Any, takes_over: bool) -> None:
        theirs = self._at(place)
        if not takes_over:
            self.conflicts.append(Conflict(place, copy.deepcopy(theirs), value))
            return
        if place != path:  # a single value where a dictionary has to be
            self._put(place, {})
            self.record.entries[place] = Entry({}, theirs)
            self._put(path, value)
            self.record.entries[path] = Entry(value)
            return
        self._put(path, value)
        self.record.entries[path] = Entry(value, copy.deepcopy(theirs))


def merge(
    document: Document,
    values: t.Mapping[str, t.Any],
    record: Record,
    lists: t.Collection[Path] = (),
    takes_over: bool = False,
) -> Merge:
    """Put our values into a document, and take those out that are not wanted any more.

    Args:
        document: what the file says.
        values: everything that is wanted of us, nested; nothing to take all back.
        record: what we have set before.
        lists: paths of lists to which items are added, instead of setting them as a whole.
        takes_over: set our value also where somebody else has set another one.

    Returns:
        The document with our values, which shares nothing with the one given.
    """
    wanted = leaves(values)
    result = Merge(copy.deepcopy(document), copy.deepcopy(record))
    result.release(wanted, lists)
    for path, value in wanted.items():
        if path in lists:
            if not isinstance(value, list):
                raise StructuredError(f"{dotted(path)} has to be a list, because items are to be added to it")
            result.add(path, value, takes_over)
        else:
            result.put(path, value, takes_over)
    return result


def _union(first: t.Sequence[t.Any], second: t.Sequence[t.Any]) -> list[t.Any]:
    return [*first, *(item for item in second if item not in first)]


# -- The formats ---------------------------------------------------------------------------------------------------


class Format:
    """How a kind of file is read and written."""

    name = ""

    def read(self, text: str) -> Document:
        """The document that a text says.

        Raises:
            StructuredError: the text is not of this format, or no dictionary.
        """
        raise NotImplementedError

    def write(self, text: str, result: Merge) -> str:
        """The text that says the result of a merge, as much as possible as the former text."""
        raise NotImplementedError


class Json(Format):
    """JSON, as the standard library reads it."""

    name = "JSON"

    def read(self, text: str) -> Document:
        """See the base class."""
        if not text.strip():
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            raise StructuredError(f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise StructuredError("not a JSON object")
        return value

    def write(self, text: str, result: Merge) -> str:
        """See the base class; the indentation stays."""
        found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
        indent: str | int = found[1] if found else 2
        return f"{json.dumps(result.document, indent=indent, ensure_ascii=False)}\n"


class Toml(Format):
    """TOML, by tomlkit, which leaves comments and order alone."""

    name = "TOML"

    def __init__(self) -> None:
        try:
            import tomlkit
        except ImportError as error:
            raise LibraryError(
                "TOML needs the Python library tomlkit on the host (python3-tomlkit of Debian and Ubuntu)"
            ) from error
        self._tomlkit: t.Any = tomlkit

    def read(self, text: str) -> Document:
        """See the base class."""
        try:
            return dict(_plain(self._tomlkit.parse(text)))
        except (ValueError, self._tomlkit.exceptions.TOMLKitError) as error:
            raise StructuredError(f"not TOML: {error}") from error

    def write(self, text: str, result: Merge) -> str:
        """See the base class; only the lines of changed values change."""
        document = self._tomlkit.parse(text)
        for edit in result.edits:
            table: t.Any = document
            for key in edit.path[:-1]:
                if key not in table:
                    table[key] = self._tomlkit.table()
                table = table[key]
            if edit.value is MISSING:
                del table[edit.path[-1]]
            elif isinstance(edit.value, dict):
                new = self._tomlkit.table()
                new.update(edit.value)
                table[edit.path[-1]] = new
            else:
                table[edit.path[-1]] = edit.value
        written: str = self._tomlkit.dumps(document)
        # What the library made of it is read again: a file that says something else is never put in place.
        if self.read(written) != result.document:
            raise StructuredError("the values could not be put into the TOML file; nothing was changed")
        return written


def _plain(value: t.Any) -> t.Any:
    """A value of tomlkit as Python's own types, whichever version it is."""
    if hasattr(value, "unwrap"):
        value = value.unwrap()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def format_of(name: str, path: str) -> Format:
    """The format of a file.

    Args:
        name: ``json``, ``toml``, or ``auto`` to go by the path.
        path: the file.

    Raises:
        StructuredError: the path does not say, or the library for it is missing.
    """
    if name == "auto":
        name = path.rpartition(".")[2].lower()
    if name == "json":
        return Json()
    if name in {"toml", "conf"}:
        return Toml()
    raise StructuredError(f"cannot tell the format of {path} by its name: set format")
