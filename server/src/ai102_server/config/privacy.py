# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is hidden in logs, and the keys of hashes and sealed fields: the section ``privacy``."""

from __future__ import annotations

from dataclasses import dataclass

from ai102_server.config.reader import MISSING, Section, kind_of, to_component, to_path, to_text
from ai102_server.privacy.keys import KeySource
from ai102_server.privacy.masking import DEFAULT_KINDS, KINDS, Masker
from ai102_server.privacy.patterns import MAX_PATTERNS, CustomPattern

__all__ = ["Privacy", "read_privacy"]


@dataclass(frozen=True)
class Privacy:
    """What is hidden in logs.

    ``mask`` names what is masked, see ``ai102_server.privacy.masking``; ``patterns`` are further ones. ``hash_key`` is
    the key of salted hashes: without it one is made at each start, so that hashes of two runs cannot be compared.
    ``seal_keys`` are the keys of sealed fields.
    """

    mask: tuple[str, ...] = DEFAULT_KINDS
    patterns: tuple[CustomPattern, ...] = ()
    hash_key: KeySource | None = None
    seal_keys: KeySource | None = None

    def masker(self) -> Masker:
        """A masker for what is configured."""
        return Masker(self.mask, self.patterns)


def _kinds(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of what to mask, not {kind_of(value)}: {', '.join(KINDS)}")
    unknown = [str(item) for item in value if item not in KINDS]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not one of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in value)


def _patterns(section: Section) -> tuple[CustomPattern, ...]:
    value = section.raw("patterns")
    if value is MISSING:
        return ()
    if not isinstance(value, list) or len(value) > MAX_PATTERNS:
        section.report("patterns", f"must be a list of at most {MAX_PATTERNS} mappings, each with name and pattern")
        return ()
    patterns: list[CustomPattern] = []
    for index, item in enumerate(value):
        entry = Section(item, f"{section.at('patterns')}[{index}]", section.problems)
        name = entry.require(
            "name", "", to_component, "what stands in the place of what is found, such as staff_number"
        )
        text = entry.require("pattern", "", to_text, "a regular expression, such as 'P-[0-9]{6}'")
        entry.finish()
        if name and text:
            try:
                patterns.append(CustomPattern.parse(name, text))
            except ValueError as error:
                entry.report("pattern", str(error))
    return tuple(patterns)


def _key(parent: Section, key: str) -> KeySource | None:
    section = parent.section(key)
    if not parent.has(key):
        return None
    source = KeySource(
        file=section.get("file", None, to_path), credential=section.get("credential", None, to_component)
    )
    if not section.has("file") and not section.has("credential"):
        section.report("", "needs file (a path) or credential (a name of systemd's LoadCredential=)")
    elif section.has("file") and section.has("credential"):
        section.report("", "cannot have file and credential: keep one of them")
    section.finish()
    return source


def read_privacy(section: Section) -> Privacy:
    """The section ``privacy``; mistakes are reported to it."""
    privacy = Privacy(
        mask=section.get("mask", DEFAULT_KINDS, _kinds),
        patterns=_patterns(section),
        hash_key=_key(section, "hash_key"),
        seal_keys=_key(section, "seal_keys"),
    )
    section.finish()
    return privacy
