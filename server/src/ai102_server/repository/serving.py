# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a package says about how its model is served: the key ``serving`` of the manifest, signed with the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ai102_server.config.reader import Section, kind_of, to_component, to_integer
from ai102_server.errors import ModelError

__all__ = ["Batching", "Serving", "read_serving"]

MAX_BATCH: Final = 4096
MAX_INSTANCES: Final = 64
Padding = bool | int | float | str


@dataclass(frozen=True)
class Batching:
    """Whether requests of several clients are put together. None means: find out (``auto``).

    ``max_size`` and ``preferred_sizes`` count along the first axis.
    """

    enabled: bool | None = None
    max_size: int | None = None
    preferred_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Serving:
    """Settings of one model. None means: as the server's configuration says.

    ``padding`` maps the inputs that may be lengthened, so that requests of several lengths fit one batch, to the value
    that fills them. ``pipeline`` is the declaration as it stands in the manifest, see ``ai102_server.pipeline``.
    """

    batching: Batching = field(default_factory=Batching)
    instances: int | None = None
    padding: Mapping[str, Padding] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    pipeline: Mapping[str, Any] | None = None


def read_serving(value: object, where: str) -> Serving:
    """Read ``serving`` of a manifest (None: it has none). Raises ``ModelError`` with every mistake found."""
    problems: list[str] = []
    section = Section(value, "serving", problems)
    batching = section.section("batching")
    serving = Serving(
        batching=Batching(
            enabled=batching.get("enabled", None, _to_auto),
            max_size=batching.get("max_size", None, to_integer(1, MAX_BATCH)),
            preferred_sizes=batching.get("preferred_sizes", (), _to_sizes),
        ),
        instances=section.get("instances", None, to_integer(1, MAX_INSTANCES)),
        padding=section.get("padding", {}, _to_padding),
        tags=section.get("tags", frozenset(), _to_tags),
        pipeline=section.get("pipeline", None, _to_mapping),
    )
    limit = serving.batching.max_size
    if limit is not None and any(size > limit for size in serving.batching.preferred_sizes):
        batching.report("preferred_sizes", f"holds a size over max_size ({limit})")
    batching.finish()
    section.finish()
    if problems:
        raise ModelError("; ".join(f"{where}: {problem}" for problem in problems))
    return serving


def _to_auto(value: object) -> bool | None:
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise ValueError(f'must be true, false or "auto", not {kind_of(value)}')
    return value


def _to_sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of batch sizes, not {kind_of(value)}")
    convert = to_integer(1, MAX_BATCH)
    return tuple(sorted({convert(item) for item in value}))


def _to_padding(value: object) -> Mapping[str, Padding]:
    if not isinstance(value, dict):
        raise ValueError(f"must map inputs to the value that fills them, not {kind_of(value)}")
    for name, item in value.items():
        if not isinstance(item, (bool, int, float, str)) or (isinstance(item, float) and not math.isfinite(item)):
            raise ValueError(f"'{name}' must be filled with a number, true, false or text, not {kind_of(item)}")
    return dict(value)


def _to_tags(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of tags, not {kind_of(value)}")
    tags = frozenset(str(item) for item in value)
    for tag in tags:
        # As a name, or two of them: tenant:clinic.
        for part in tag.split(":", 1):
            to_component(part)
    return tags


def _to_mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of inputs and outputs, not {kind_of(value)}")
    return value
