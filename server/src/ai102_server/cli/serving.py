# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``serve`` and ``check``."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import orjson

from ai102_server.config import ModelRef, load_config
from ai102_server.telemetry.logs import configure_logging

__all__ = ["run_check", "run_serve"]


def run_serve(path: Path) -> int:
    """Run the server with the configuration at ``path``."""
    config = load_config(path)
    configure_logging(config.log.level, config.privacy.masker())
    from ai102_server.serving import serve

    return serve(config)


def run_check(path: Path, *, as_json: bool, access_only: bool = False) -> int:
    """Check everything ``serve`` needs but the address, and print what was found. Returns 0 when it would serve.

    With ``access_only`` neither models nor certificates are looked at. Raises ``ConfigError`` or ``ServerError``.
    """
    config = load_config(path)
    # The result says what is wrong; the same as log lines would only be in the way.
    configure_logging("error" if not as_json else "critical")
    from ai102_server.access import Access
    from ai102_server.engine import load_registry
    from ai102_server.serving.models import wanted_models
    from ai102_server.serving.tls import check_tls

    if config.listen.tls is not None and not access_only:
        check_tls(config.listen.tls)
    with tempfile.TemporaryDirectory(prefix="ai102-check-") as scratch:
        # Not the server's own state file: who checks is often root, and would leave one that the server cannot open.
        access = config.access
        if access.state is not None:
            access = replace(access, state=Path(scratch) / access.state.name)
        Access.load(access).close()
    if access_only:
        return 0
    refs = tuple(ModelRef(item.name, item.version, item.path) for item in wanted_models(config))
    registry = load_registry(replace(config, models=refs))
    if as_json:
        models = [
            {
                "name": model.name,
                "version": model.version,
                "ready": model.ready,
                "provider": model.provider,
                "golden": model.golden,
                "reason": model.reason,
            }
            for model in registry
        ]
        print(orjson.dumps({"ok": registry.ready, "models": models}, option=orjson.OPT_INDENT_2).decode())
        return 0 if registry.ready else 1
    for model in registry:
        if model.ready:
            print(
                f"ok    {model.name} {model.version}: {model.provider}, {model.golden} golden answers reproduced, "
                f"{model.seconds:.2f} s"
            )
        else:
            print(f"FAIL  {model.name} {model.version}: {model.reason}", file=sys.stderr)
    return 0 if registry.ready else 1
