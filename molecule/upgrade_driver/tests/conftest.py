"""The fixtures of a whole site."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))  # pytest's import mode `importlib` does not

from site_fixtures import *  # noqa: F403  # pytest finds fixtures by their names here
