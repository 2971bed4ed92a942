#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes certificates laid out as the role `pki` does, so that this scenario needs no other role.

certificates.py DIRECTORY NAME=SAN,SAN…      one server certificate for each NAME; a client certificate for all
"""

from __future__ import annotations

import datetime
import sys
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(name: str, issuer: Pair | None, names: list[str], usage: x509.ObjectIdentifier | None) -> Pair:
    """A CA without `usage` (self-signed without `issuer`), else a certificate for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now().astimezone()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        sans = [x509.IPAddress(ip_address(n)) if n.replace(".", "").isdigit() else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as one PEM file."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def write(directory: Path, pair: Pair, *chain: x509.Certificate) -> None:
    """`cert.pem`, `fullchain.pem` and `key.pem`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cert.pem").write_bytes(pem(pair[0]))
    (directory / "fullchain.pem").write_bytes(pem(pair[0], *chain))
    key = directory / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(
        pair[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def main() -> None:
    """Write one directory for each host."""
    top = Path(sys.argv[1])
    root = issue("root", None, [], None)
    servers, clients = issue("servers", root, [], None), issue("clients", None, [], None)
    client = issue("client", clients, [], Usage.CLIENT_AUTH)
    for argument in sys.argv[2:]:
        name, _equals, names = argument.partition("=")
        directory = top / name
        write(directory / "server", issue(name, servers, names.split(","), Usage.SERVER_AUTH), servers[0])
        write(directory / "client", client)
        (directory / "root_ca.pem").write_bytes(pem(root[0]))
        (directory / "server_ca.pem").write_bytes(pem(root[0], servers[0]))
        (directory / "client_ca.pem").write_bytes(pem(clients[0]))


if __name__ == "__main__":
    main()
