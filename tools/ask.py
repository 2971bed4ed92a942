#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the two models of the demo through the gateway, as any client would: over TLS, everything verified.

Usage::

    tools/ask.py                                # the demo's picture and this program
    tools/ask.py README.md photo.jpg            # of which type are these files?
    tools/ask.py --inventory inventories/mine   # another site that serves the same models

The endpoint's name need not be in DNS: the connection goes to the gateway's address, and the certificate must be good
for the name. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _console import ROOT, Failure, Stopwatch, run, say

PICTURE = ROOT / "tools" / "demo_data" / "line.pgm"
LABELS = ROOT / "roles" / "model_store" / "files" / "config"
BLOCK, BYTES_OF_EACH_END, PADDING = 4096, 1024, 256


@dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Attributes:
        name: DNS name that the certificate must be good for.
        addresses: Addresses of the gateways.
        port: TCP port.
        bundle: Certificates that the endpoint's chain must lead to.
    """

    name: str
    addresses: list[str]
    port: int
    bundle: Path

    @property
    def url(self) -> str:
        """Base URL of the endpoint."""
        return f"https://{self.name}" if self.port == 443 else f"https://{self.name}:{self.port}"


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, verified for a name."""

    def __init__(self, endpoint: Endpoint, address: str) -> None:
        self._address = address
        self._tls = ssl.create_default_context(cafile=str(endpoint.bundle))
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        super().__init__(endpoint.name, endpoint.port, timeout=30, context=self._tls)

    def connect(self) -> None:
        """Connect to the address and check the certificate for the name."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def find_endpoint(inventory: Path) -> Endpoint:
    """Read from an inventory where its endpoint is.

    Raises:
        Failure: The inventory has no gateways, or its site was never rolled out.
    """
    program = Path(sys.executable).parent / "ansible-inventory"
    listed = json.loads(run([program, "-i", inventory, "--list"], capture=True))
    names = listed.get("gateways", {}).get("hosts", [])
    if not names:
        raise Failure(f"{inventory} has no host in the group gateways.")
    hosts = [listed["_meta"]["hostvars"].get(name, {}) for name in names]
    addresses = [
        str(host.get("ai102_address") or host.get("ansible_host") or name)
        for name, host in zip(names, hosts, strict=True)
    ]
    directory = inventory if inventory.is_dir() else inventory.parent
    secrets = Path(str(hosts[0].get("ai102_secrets_dir", directory / "secrets")))
    bundle = secrets / "pki" / "ca-bundle.pem"
    if not bundle.exists():
        raise Failure(f"There is no {bundle}.", f"roll the site out first: ansible-playbook -i {inventory} site.yml")
    return Endpoint(
        name=str(hosts[0].get("ai102_service_name", "inference.example.internal")),
        addresses=addresses,
        port=int(hosts[0].get("ai102_gateway_port", 443)),
        bundle=bundle,
    )


def infer(endpoint: Endpoint, model: str, request: dict[str, Any]) -> tuple[list[float], float]:
    """Ask a model.

    Args:
        endpoint: Where.
        model: Its name.
        request: The request of the Open Inference Protocol.

    Returns:
        The numbers of the first output, and how long the answer took in milliseconds.

    Raises:
        Failure: No gateway answers, a certificate is not good, or the answer is not 200.
    """
    problems: list[str] = []
    for address in endpoint.addresses:
        connection = _Connection(endpoint, address)
        try:
            watch = Stopwatch()
            connection.request(
                "POST",
                f"/v2/models/{model}/infer",
                json.dumps(request),
                {"Content-Type": "application/json", "Host": endpoint.url.removeprefix("https://")},
            )
            response = connection.getresponse()
            body = response.read()
            took = watch.seconds * 1000
        except ssl.SSLCertVerificationError as error:
            raise Failure(f"The certificate of {address} is not good for {endpoint.name}: {error}") from error
        except OSError as error:
            problems.append(f"{address}: {error}")
            continue
        finally:
            connection.close()
        if response.status != 200:
            raise Failure(f"{endpoint.url} answered {response.status}: {body[:500].decode(errors='replace')}")
        numbers: list[float] = json.loads(body)["outputs"][0]["data"]
        return numbers, took
    raise Failure(f"No gateway of {endpoint.url} answers: {'; '.join(problems)}")


def picture_request(path: Path, *, upside_down: bool) -> dict[str, Any]:
    """Turn a grey picture (PGM, 192 by 48) of one line of text into a request."""
    header, size, deepest, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    if (header, deepest, len(pixels)) != (b"P5", b"255", width * height):
        raise Failure(f"{path} is not a binary PGM of 8 bits.")
    ordered = pixels[::-1] if upside_down else pixels  # turned by 180 degrees, the last pixel is the first
    plane = [round((value / 255 - 0.5) / 0.5, 4) for value in ordered]
    shape = [1, 3, height, width]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": plane * 3}]}


def bytes_request(content: bytes) -> dict[str, Any]:
    """Turn the content of a file into a request: its first and its last bytes, without white space around them."""
    first = list(content[:BLOCK].lstrip()[:BYTES_OF_EACH_END])
    last = list(content[-BLOCK:].rstrip()[-BYTES_OF_EACH_END:])
    first += [PADDING] * (BYTES_OF_EACH_END - len(first))
    last = [PADDING] * (BYTES_OF_EACH_END - len(last)) + last
    shape = [1, 2 * BYTES_OF_EACH_END]
    return {"inputs": [{"name": "bytes", "shape": shape, "datatype": "INT32", "data": first + last}]}


def best(model: str, numbers: list[float]) -> tuple[str, float]:
    """Return the most probable label of a model's answer, and its probability in percent."""
    labels: list[str] = json.loads((LABELS / f"{model}.json").read_text())["labels"]
    place = max(range(len(numbers)), key=numbers.__getitem__)
    return labels[place], 100 * numbers[place]


def verdicts(directory: Path) -> list[str]:
    """Sum up the verdicts that the last run has written, one line for each."""
    lines = []
    for path in sorted(directory.glob("*.json")):
        try:
            verdict = json.loads(path.read_text())
            summary = verdict["summary"]
            word = "PASS" if verdict["ok"] else "FAIL"
        except (ValueError, KeyError, TypeError):
            continue
        counts = ", ".join(f"{number} {status}" for status, number in summary.items() if number)
        lines.append(f"verdict  {word}  {verdict['kind']}: {counts}")
    return lines


def demonstrate(inventory: Path, files: list[Path]) -> None:
    """Ask the models and print what they say."""
    endpoint = find_endpoint(inventory)
    reports = (inventory if inventory.is_dir() else inventory.parent) / "reports"
    if not files:
        for line in verdicts(reports):
            say(line)
        say(f"endpoint {endpoint.url}  (at {', '.join(endpoint.addresses)}, verified with {_short(endpoint.bundle)})")
        for title, upside_down in (("as it is", False), ("turned by 180°", True)):
            numbers, took = infer(endpoint, "text-line-orientation", picture_request(PICTURE, upside_down=upside_down))
            label, percent = best("text-line-orientation", numbers)
            word = "upright" if label.startswith("0") else "upside down"
            say(f"image    {PICTURE.name} {title}: this line is {word} ({label}) {percent:.1f} %  [{took:.0f} ms]")
    for path in files or [Path(__file__), ROOT / "Makefile"]:
        request = bytes_request(path.read_bytes())
        numbers, took = infer(endpoint, "file-type", request)
        label, percent = best("file-type", numbers)
        say(f"file     {path.name}: file type: {label} {percent:.1f} %  [{took:.0f} ms]")
    if not files:
        reports.mkdir(exist_ok=True)
        example = reports / "example-request.txt"
        example.write_text(json.dumps(bytes_request(Path(__file__).read_bytes())))
        resolve = f"{endpoint.name}:{endpoint.port}:{endpoint.addresses[0]}"
        curl = ["curl", "--cacert", _short(endpoint.bundle), "--resolve", resolve, "--json", f"@{_short(example)}"]
        say("\nAsk again, with files of yours or with any client of the Open Inference Protocol:")
        say(f"  {_short(Path(sys.executable))} tools/ask.py --inventory {_short(inventory)} README.md")
        say(f"  {shlex.join(curl)} {endpoint.url}/v2/models/file-type/infer")


def _short(path: Path) -> str:
    """Name a path from the checkout's root, where it lies inside."""
    absolute = path.absolute()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(absolute)


def main() -> None:
    """Parse the command line and ask."""
    parser = argparse.ArgumentParser(description="Asks the demo's models through the gateway, over verified TLS.")
    parser.add_argument("files", nargs="*", type=Path, help="of which type are these files?")
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventories" / "demo", help="default: the demo's")
    arguments = parser.parse_args()
    demonstrate(arguments.inventory, arguments.files)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
