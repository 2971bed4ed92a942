#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what quantise.py quantises with: for each model calibration samples and others to judge with.

Runs in the environment of `models.txt`. Text lines are rendered, with labels; sentences are those of the documentation
of Python's library, at their own lengths; photographs are cut-outs, judged by agreement with the original.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import numpy as np
from models import tokens
from photographs import photographs
from text_lines import text_lines

MODULES = (
    "argparse ast asyncio.streams calendar collections concurrent.futures configparser contextlib csv datetime decimal "
    "difflib email.message enum fractions functools gettext hashlib heapq html http.client http.cookiejar imaplib "
    "inspect io ipaddress itertools json locale logging mailbox math mimetypes optparse os pathlib pickle platform "
    "queue random re sched selectors shutil smtplib socket sqlite3 ssl statistics string subprocess tarfile tempfile "
    "textwrap threading time timeit tkinter traceback turtle types typing unicodedata unittest urllib.parse uuid "
    "wave weakref xml.dom.minidom zipfile numpy"
)


def sentences(count: int, seed: int) -> list[str]:
    """Different sentences of five to forty words from docstrings."""
    found: dict[str, None] = {}
    for name in MODULES.split():
        try:
            module = import_module(name)
        except ImportError:
            continue
        for _, item in inspect.getmembers(module, lambda x: inspect.isclass(x) or inspect.isroutine(x)):
            for owner in (item, *(vars(item).values() if inspect.isclass(item) else ())):
                text = inspect.getdoc(owner) if callable(owner) else None
                for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text or "")):
                    if paragraph.startswith((">>>", " ", "..")):
                        continue
                    for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                        if 5 <= len(part.split()) <= 40 and part.endswith(".") and part.isascii():
                            found[part] = None
    texts = sorted(found)
    if len(texts) < count:
        raise SystemExit(f"error: only {len(texts)} sentences were found, {count} are needed")
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[i] for i in order]


def request(feed: dict[str, np.ndarray]) -> dict[str, object]:
    """V2 request of a sentence."""
    return {
        "inputs": [
            {"name": name, "shape": list(array.shape), "datatype": "INT64", "data": array.ravel().tolist()}
            for name, array in feed.items()
        ]
    }


def main() -> None:
    """Write the samples of all models."""
    data, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("calibrate", 200, 11), ("judge", 1000, 12)):
        images, labels = text_lines(count, seed)
        np.savez(target / f"ocr-{name}.npz", x=images, labels=labels)
    texts = sentences(700, 13)
    for name, part in (("calibrate", texts[:200]), ("judge", texts[200:])):
        feeds = [tokens(data / "minilm" / "source", [text]) for text in part]
        (target / f"minilm-{name}.json").write_text(json.dumps([request(feed) for feed in feeds]))
    pictures = photographs(180, 14)
    # Every photograph is in both sets, in different cut-outs: there are no more of them.
    np.savez(target / "image-calibrate.npz", x=pictures[:72])
    np.savez(target / "image-judge.npz", x=pictures[72:])


if __name__ == "__main__":
    main()
