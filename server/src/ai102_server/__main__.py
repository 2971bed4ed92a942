# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``python -m ai102_server``."""

from __future__ import annotations

import sys

from ai102_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
