# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Table, targets and plots from results.json."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import environments
from environments import HERE

FLASK = ("flask-granian", "flask-gunicorn")
HTTP_ALONE = "http-alone"
Key = tuple[str, str, str, int]


class Results:
    """Measurements by server, model, encoding and concurrency: one for each round."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.windows: dict[Key, dict[int, dict[str, Any]]] = defaultdict(dict)
        for item in document["measurements"]:
            key = (item["server"], item["model"], item["encoding"], item["concurrency"])
            self.windows[key][item["round"]] = item

    def values(self, server: str, model: str, encoding: str, concurrency: int, what: str = "rps") -> list[float]:
        """One value for each round."""
        return [
            item[what] for _round, item in sorted(self.windows.get((server, model, encoding, concurrency), {}).items())
        ]

    def median(self, *key: Any, what: str = "rps") -> float | None:
        """Median of the rounds; None when there is none."""
        values = self.values(*key, what=what)
        return statistics.median(values) if values else None

    def compared(self, ours: Key, other: Key, how: Callable[[float, float], float], what: str = "rps") -> list[float]:
        """Something of two servers, round by round."""
        mine, theirs = self.windows.get(ours, {}), self.windows.get(other, {})
        return [how(mine[n][what], theirs[n][what]) for n in sorted(mine) if n in theirs]

    def best(self, model: str, encoding: str, concurrency: int, without: Iterable[str] = ()) -> str | None:
        """The peer with the highest median."""
        found = {
            name: median
            for name in self.document["labels"]
            if name not in {"raw", HTTP_ALONE, "ours", "ours-off", *without}
            and (median := self.median(name, model, encoding, concurrency)) is not None
        }
        return max(found, key=lambda name: found[name]) if found else None


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    middle = _number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))}–{_number(max(values))})"


def targets(results: Results) -> list[tuple[str, str, bool | None]]:
    """Each target: what it says, what was found, whether it was met (None: not measured)."""
    found: list[tuple[str, str, bool | None]] = []

    def ratio(text: str, ours: Key, other: Key | None, limit: float) -> None:
        values = results.compared(ours, other, lambda a, b: a / b) if other else []
        if other is None or not values:
            found.append((f"{text} ≥ {limit:g}", "not measured", None))
            return
        middle = statistics.median(values)
        against = f" ({results.document['labels'].get(other[0], other[0])})"
        spread = f", rounds {min(values):.2f}–{max(values):.2f}" if len(values) > 1 else ""
        reach = ""
        if other[0] not in {"raw", "ours-off"} and ours[1] != "tiny":
            # No server is ahead of ONNX Runtime itself: a target may ask for more than the model allows. Running the
            # tiny one costs next to nothing, so there it would say nothing.
            most = results.compared(("raw", ours[1], "none", ours[3]), other, lambda a, b: a / b)
            reach = f"; ONNX Runtime without a server: {statistics.median(most):.3g}" if most else ""
        found.append((f"{text} ≥ {limit:g}", f"{middle:.3g}{against}{spread}{reach}", middle >= limit))

    def peer(model: str, encoding: str, concurrency: int = 32, without: Iterable[str] = ()) -> Key | None:
        name = results.best(model, encoding, concurrency, without)
        return (name, model, encoding, concurrency) if name else None

    for connections in (64, 32):
        mini = ("ours", "minilm", "json", connections)
        text = f"MiniLM, JSON, concurrency {connections}: ours"
        ratio(f"{text} / ONNX Runtime", mini, ("raw", "minilm", "none", connections), 0.95)
        ratio(f"{text} / best peer", mini, peer("minilm", "json", connections), 1.25)
    for model, label in (("ocr", "OCR classifier"), ("image", "EfficientNet-Lite0")):
        mine = ("ours", model, "binary", 32)
        ratio(f"{label}, binary: ours / ONNX Runtime", mine, ("raw", model, "none", 32), 0.88)
        triton = max(
            ((name, model, "binary", 32) for name in ("triton", "triton-batch")),
            key=lambda key: results.median(*key) or 0.0,
        )
        ratio(f"{label}, binary: ours / Triton through PyTriton", mine, triton, 1.8)
    small = ("ours", "tiny", "json", 32)
    ratio("tiny, JSON: ours / best peer but plain Flask", small, peer("tiny", "json", without=FLASK), 6)
    ratio("tiny, JSON: ours / plain Flask on Granian", small, ("flask-granian", "tiny", "json", 32), 2)
    for model, encoding in (("tiny", "json"), ("minilm", "json"), ("ocr", "binary"), ("image", "binary")):
        for what, limit in (("p50", 200.0), ("p99", 1000.0)):
            values = results.compared(("ours", model, encoding, 1), ("raw", model, "none", 1), lambda a, b: a - b, what)
            text = f"{model}, {encoding}, concurrency 1: added {what} ≤ {limit:g} µs"
            if values:
                middle = statistics.median(values)
                found.append((text, f"{_spread(values)} µs", middle <= limit))
            else:
                found.append((text, "not measured", None))
    for model, encoding in (("tiny", "json"), ("minilm", "json"), ("ocr", "binary"), ("image", "binary")):
        ratio(f"{model}, {encoding}: features on / off", ("ours", model, encoding, 32),
              ("ours-off", model, encoding, 32), 0.9)  # fmt: skip
    return found


def bounds(results: Results) -> str:
    """What the machine leaves to any server that has to take HTTP and to run the model, and what of it ours reaches."""
    lines: list[str] = []
    for model, encoding in (("minilm", "json"), ("minilm", "binary"), ("ocr", "binary"), ("image", "binary")):
        raw, alone, mine = (
            results.windows.get((name, model, "none" if name == "raw" else encoding, 32), {})
            for name in ("raw", HTTP_ALONE, "ours")
        )
        rounds = sorted(raw.keys() & alone.keys() & mine.keys())
        if not rounds:
            continue
        bound = {n: 1 / (1 / raw[n]["rps"] + 1 / alone[n]["rps"]) for n in rounds}
        left = statistics.median(bound[n] / raw[n]["rps"] for n in rounds)
        reached = statistics.median(mine[n]["rps"] / bound[n] for n in rounds)
        lines.append(f"| {model}, {encoding} | {_spread(list(bound.values()))} | {left:.2f} | {reached:.2f} |")
    if not lines:
        return ""
    head = ["| case | bound, requests/s | bound / ONNX Runtime | ours / bound |", "|---|---|---|---|"]
    return "\n".join([*head, *lines])


def table(results: Results) -> str:
    """All medians, with the slowest and the fastest round."""
    document = results.document
    columns = sorted({key[1:] for key in results.windows if key[0] != "raw"}, key=_order)
    lines: list[str] = []
    for concurrency in sorted({key[2] for key in columns}, reverse=True):
        cases = [key for key in columns if key[2] == concurrency]
        unit = "requests/s" if concurrency > 1 else "latency p50 / p99 in µs"
        lines += ["", f"### Concurrency {concurrency}: {unit}", ""]
        lines.append("| server | " + " | ".join(f"{model}, {encoding}" for model, encoding, _ in cases) + " |")
        lines.append("|---|" + "---|" * len(cases))
        for name, label in document["labels"].items():
            cells = []
            for model, encoding, _ in cases:
                key = (name, model, "none" if name == "raw" else encoding, concurrency)
                if concurrency > 1:
                    cells.append(_spread(results.values(*key)))
                else:
                    middle, high = results.median(*key, what="p50"), results.median(*key, what="p99")
                    cells.append("–" if middle is None or high is None else f"{_number(middle)} / {_number(high)}")
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _order(key: tuple[str, str, int]) -> tuple[int, str, int]:
    models = ("tiny", "minilm", "ocr", "image")
    return models.index(key[0]), key[1], -key[2]


def _others(measurements: list[dict[str, Any]]) -> str:
    """How much of the machine other programs had: figures with much of that are worth little."""
    shares = [item["others"] for item in measurements if item["server"] != "raw"]
    if not shares:
        return ""
    noisy = sum(share > 0.1 for share in shares)
    text = f"Other programs had {statistics.median(shares):.1%} of the CPUs in the middle and {max(shares):.1%} at most"
    return f"{text}; in {noisy} of {len(shares)} windows more than 10 %" + (": **measure again.**" if noisy else ".")


def write(directory: Path) -> tuple[str, int]:
    """Write results.md and the plots; returns the text and how many targets were missed."""
    document = json.loads((directory / "results.json").read_text())
    results = Results(document)
    machine = document["machine"]
    checked = targets(results)
    errors = sum(item["errors"] for item in document["measurements"])
    lines = [
        "# Measured",
        "",
        f"{document['started']}, {machine['cores']} cores of {machine['cpu'] or 'an unnamed CPU'}, load generator on "
        f"the same machine, {document['rounds']} rounds of {document['window_seconds']:g} s windows, Python "
        f"{machine['python']}. Median (slowest–fastest round). "
        + ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        + ".",
        "",
        f"{errors} requests failed in all windows together." if errors else "No request failed.",
        "",
        _others(document["measurements"]),
        "",
        "## Targets",
        "",
        "| target | found | |",
        "|---|---|---|",
    ]
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines += [f"| {text} | {value} | {words[met]} |" for text, value, met in checked]
    if limits := bounds(results):
        lines += ["", "## What HTTP leaves", "", limits]
    lines += ["", "## All servers", table(results)]
    if document["failures"]:
        lines += ["", "## Could not be measured", "", *(f"- {text}" for text in dict.fromkeys(document["failures"]))]
    text = "\n".join(lines) + "\n"
    (directory / "results.md").write_text(text)
    python = environments.environment("models", HERE / "models.txt") / "python"
    if subprocess.run([python, HERE / "plots.py", directory], check=False).returncode != 0:
        environments.say("the plots could not be drawn")
    return text, sum(met is False for _text, _value, met in checked)
