# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The page: files beside this module, read once, with what a browser is told about them."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final, NamedTuple

__all__ = ["SECURITY_HEADERS", "PageFile", "load_files"]

SECURITY_HEADERS: Final = {
    # Everything comes from this server; nothing inline, no plug-ins, no frames around it, no form that goes elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Asked again each time, and answered 304 as long as it is the same.
    "Cache-Control": "no-cache",
}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFile(NamedTuple):
    """A file of the page. ``digest`` changes with its content."""

    content: bytes
    content_type: str
    digest: str


def load_files() -> dict[str, PageFile]:
    """All files of the page by name."""
    files: dict[str, PageFile] = {}
    for item in resources.files(__name__).iterdir():
        content_type = _TYPES.get(item.name[item.name.rfind(".") :])
        if content_type is not None:
            content = item.read_bytes()
            files[item.name] = PageFile(content, content_type, hashlib.sha256(content).hexdigest()[:32])
    return files
