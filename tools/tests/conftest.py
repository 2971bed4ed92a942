"""Makes the tools importable as they are when they run, and the programs of the environment findable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOOLS), str(_TOOLS / "lint_rules")]
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
