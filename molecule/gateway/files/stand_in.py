#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an inference host: V2 over mutual TLS, and misbehaves on demand.

The real server is tested with the gateway in the scenario `site`. /run/stand_in.json says how to misbehave:
{"delay": seconds, "status": HTTP status}.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONTROL = Path("/run/stand_in.json")


class Handler(BaseHTTPRequestHandler):
    """Doubles its input; `/metrics` and the like exist so that a test can see them hidden."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Head and body of an answer in one write, as the real server sends them: one that is killed between the two has
    # answered half, which no gateway can mend.
    wbufsize = -1

    def setup(self) -> None:
        """Shake hands in the connection's own thread."""
        self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """Everything is there."""
        self._reply(200, {"path": self.path})

    def do_POST(self) -> None:
        """Inference."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        control: dict[str, Any] = json.loads(CONTROL.read_text()) if CONTROL.exists() else {}
        time.sleep(float(control.get("delay", 0)) + float(self.headers.get("X-Test-Delay", 0)))
        if control.get("status"):
            self._reply(control["status"], {"error": "told to fail"})
            return
        data = [2 * x for x in body["inputs"][0]["data"]]
        output = {"name": "y", "datatype": "FP32", "shape": [len(data)], "data": data}
        seen = {"request_id": self.headers.get("X-Request-ID"), "forwarded_for": self.headers.get("X-Forwarded-For")}
        self._reply(200, {"model_name": "double", "outputs": [output], "parameters": seen})

    def _reply(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """Quiet about clients that are refused."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        """Refused handshakes are part of the tests."""


def main() -> None:
    """Serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/etc/ai102/pki/server/fullchain.pem", "/etc/ai102/pki/server/key.pem")
    context.load_verify_locations("/etc/ai102/pki/client_ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server(("0.0.0.0", int(sys.argv[1])), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
