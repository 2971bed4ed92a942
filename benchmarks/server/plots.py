#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws results.json: a bar for each server, with the slowest and fastest round. Runs where matplotlib is."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
# The same picture from the same figures, whenever it is drawn.
mpl.rcParams["svg.hashsalt"] = "ai102"
import matplotlib.pyplot as plt  # noqa: E402 (the backend must be chosen first)

TITLES = {"tiny": "tiny perceptron", "minilm": "MiniLM sentence encoder", "ocr": "OCR line classifier",
          "image": "EfficientNet-Lite0"}  # fmt: skip


def main() -> None:
    """Draw one picture for each model and encoding."""
    directory = Path(sys.argv[1])
    document = json.loads((directory / "results.json").read_text())
    windows = defaultdict(list)
    for item in document["measurements"]:
        if item["concurrency"] == 32:
            windows[item["model"], item["encoding"], item["server"]].append(item["rps"])
    cases = sorted({(model, encoding) for model, encoding, _server in windows if encoding != "none"})
    for model, encoding in cases:
        found = {}
        for name, label in document["labels"].items():
            values = windows.get((model, "none" if name == "raw" else encoding, name))
            if values and name != "http-alone" and not (name == "raw" and model == "tiny"):
                found[name] = (label, statistics.median(values), min(values), max(values))
        names = sorted(found, key=lambda name: found[name][1])
        figure, axes = plt.subplots(figsize=(8, 0.34 * len(names) + 1.1), layout="constrained")
        middle = [found[name][1] for name in names]
        spread = [[found[n][1] - found[n][2] for n in names], [found[n][3] - found[n][1] for n in names]]
        colours = ["#b5541c" if n.startswith("ours") else "#555555" if n == "raw" else "#7a9cc6" for n in names]
        axes.barh([found[name][0] for name in names], middle, xerr=spread, color=colours, capsize=2,
                  error_kw={"linewidth": 0.8})  # fmt: skip
        for position, value in enumerate(middle):
            axes.text(value, position - 0.02, f" {value:,.0f}", va="bottom", fontsize=7)
        axes.set_xlabel("requests/s, concurrency 32 (median of rounds; whiskers: slowest and fastest)", fontsize=8)
        axes.set_title(f"{TITLES[model]}, {encoding}", fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        figure.savefig(directory / f"{model}-{encoding}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
