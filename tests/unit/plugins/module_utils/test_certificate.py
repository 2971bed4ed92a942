# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is due, what is refused, and how a certificate is put in place."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import grp
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _certificate as lib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
OWNER, GROUP = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name


class Issuer:
    """A small authority."""

    def __init__(self, name: str, parent: Issuer | None = None, ca: bool = True) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(NOW + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(signer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, request_pem: str, begin: datetime.datetime = NOW - DAY, days: int = 365) -> str:
        request = x509.load_pem_x509_csr(request_pem.encode())
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self.name)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + days * DAY)
        )
        for extension in request.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


ROOT = Issuer("root")
SERVERS = Issuer("servers", ROOT)
CHAIN = [SERVERS.pem, ROOT.pem]
WANTED = lib.Wanted("server", "gpu1", ("gpu1", "10.0.0.1", "2001:DB8::0:1"), ("server",), owner=OWNER, group=GROUP)


def change(**changes: Any) -> lib.Wanted:
    return dataclasses.replace(WANTED, **changes)


@pytest.fixture
def store(tmp_path: Path) -> lib.CertificateStore:
    return lib.CertificateStore(str(tmp_path))


@pytest.fixture
def installed(store: lib.CertificateStore) -> lib.CertificateStore:
    certificate = SERVERS.sign(store.request(WANTED))
    store.install(WANTED, store.pending_key("server"), certificate, lib.delivered(CHAIN))
    return store


def test_an_installed_certificate_is_not_due(installed: lib.CertificateStore) -> None:
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW) == []
    assert not os.path.exists(os.path.join(installed.pending, "server"))


@pytest.mark.parametrize(
    ("wanted", "chain", "now", "reason"),
    [
        (change(names=("gpu1", "10.0.0.2")), CHAIN, NOW, "names are"),
        (change(usages=("client",)), CHAIN, NOW, "usages are"),
        (change(common_name="gpu2"), CHAIN, NOW, "common name is 'gpu1'"),
        (change(key_type="rsa-3072"), CHAIN, NOW, "key is ecdsa-p256"),
        (change(owner="nobody"), CHAIN, NOW, "the key belongs to"),
        (WANTED, [Issuer("servers", ROOT).pem, ROOT.pem], NOW, "issued by another authority"),
        (WANTED, [], NOW, "issued by another authority"),
        (WANTED, [SERVERS.pem, SERVERS.pem, ROOT.pem], NOW, "the chain has changed"),
        (WANTED, CHAIN, NOW + 335 * DAY, "ends on 2027-05-31"),
        (WANTED, CHAIN, NOW + 500 * DAY, "ends on 2027-05-31"),
    ],
)
def test_what_makes_a_certificate_due(
    installed: lib.CertificateStore, wanted: lib.Wanted, chain: list[str], now: datetime.datetime, reason: str
) -> None:
    reasons = lib.due_reasons(installed.installed("server"), wanted, chain, now)
    assert len(reasons) == 1, reasons
    assert reasons[0].startswith(reason)


def test_nothing_is_due_just_before_the_renewal_window(installed: lib.CertificateStore) -> None:
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW + 333 * DAY) == []


def test_damage_makes_a_certificate_due(installed: lib.CertificateStore, tmp_path: Path) -> None:
    key = tmp_path / "server" / "key.pem"
    content = key.read_text()
    key.write_text(lib.create_key("ecdsa-p256"))
    assert "key and certificate do not belong together" in lib.due_reasons(
        installed.installed("server"), WANTED, CHAIN, NOW
    )
    key.write_text(content)
    key.chmod(0o644)
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW) == [
        "the key has mode 0644, wanted is 0600"
    ]
    key.unlink()
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW) == ["missing"]
    (tmp_path / "server").unlink()
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW) == ["missing"]


def test_a_path_that_is_not_ours_is_not_touched(store: lib.CertificateStore, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with pytest.raises(lib.CertificateError, match="not a symbolic link"):
        store.installed("server")


def test_a_pending_request_is_taken_up_again_and_another_one_is_not(store: lib.CertificateStore) -> None:
    first = store.request(WANTED)
    assert store.request(WANTED) == first
    assert store.request(change(names=("other",))) != first


@pytest.mark.parametrize("file", ["key.pem", "csr.pem", "wanted"])
def test_a_torn_request_is_made_anew(store: lib.CertificateStore, tmp_path: Path, file: str) -> None:
    first = store.request(WANTED)
    (tmp_path / "pending" / "server" / file).write_text("-----BEGIN torn")
    second = store.request(WANTED)
    assert second != first
    assert lib.key_matches_request(store.pending_key("server"), second)


def test_keys_and_pending_requests_are_private(installed: lib.CertificateStore, tmp_path: Path) -> None:
    installed.request(WANTED)
    assert (tmp_path / "pending").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pending/server/key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "server/key.pem").stat().st_mode & 0o777 == 0o600


def test_a_new_version_is_switched_at_once_and_old_ones_go(installed: lib.CertificateStore, tmp_path: Path) -> None:
    seen = {os.readlink(tmp_path / "server")}
    for _number in range(3):
        certificate = SERVERS.sign(installed.request(WANTED))
        installed.install(WANTED, installed.pending_key("server"), certificate, lib.delivered(CHAIN))
        seen.add(os.readlink(tmp_path / "server"))
    assert len(seen) == 4
    assert len(list((tmp_path / "versions").iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pending", "server", "versions"]
    assert len(lib.split_certificates((tmp_path / "server/fullchain.pem").read_text())) == 2


def test_the_same_version_replaces_its_own_remains(installed: lib.CertificateStore, tmp_path: Path) -> None:
    version = (tmp_path / "server").resolve()
    key, certificate = (version / "key.pem").read_text(), (version / "cert.pem").read_text()
    (version / "fullchain.pem").write_text("torn")
    installed.install(WANTED, key, certificate, lib.delivered(CHAIN))
    assert (tmp_path / "server").resolve() == version
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW) == []


def test_an_owner_that_does_not_exist_is_named(installed: lib.CertificateStore) -> None:
    with pytest.raises(lib.CertificateError, match="no user 'nosuch'"):
        installed.install(change(owner="nosuch"), lib.create_key("ecdsa-p256"), SERVERS.pem, [])


def test_removal_takes_link_versions_and_request(installed: lib.CertificateStore, tmp_path: Path) -> None:
    installed.request(WANTED)
    assert list(installed.remains()) == ["server"]
    installed.remove("server")
    assert list(installed.remains()) == []
    assert list((tmp_path / "versions").iterdir()) == []


def request_with(*extensions: x509.ExtensionType, common_name: str = "gpu1") -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


NAME = x509.SubjectAlternativeName([x509.DNSName("gpu1")])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
SIGNS = x509.KeyUsage(True, False, False, False, False, True, False, False, False)


@pytest.mark.parametrize(
    ("request_pem", "error"),
    [
        (
            request_with(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), SERVER),
            "names are ['bank.example']",
        ),
        (request_with(NAME, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])), "usages are ['client']"),
        (request_with(NAME, SERVER, common_name="root"), "subject is 'CN=root'"),
        (request_with(NAME, SERVER, x509.BasicConstraints(ca=True, path_length=None)), "asks for an authority"),
        (request_with(NAME, SERVER, SIGNS), "asks for the right to sign certificates"),
        (
            request_with(NAME, SERVER, x509.NameConstraints([x509.DNSName("x")], None)),
            "carries an extension that was not asked for (2.5.29.30)",
        ),
        (
            request_with(
                x509.SubjectAlternativeName([x509.DNSName("gpu1"), x509.RFC822Name("root@example.com")]), SERVER
            ),
            "carries names of a kind that was not asked for",
        ),
        ("nothing", "cannot be read"),
    ],
)
def test_a_host_cannot_ask_for_more_than_it_was_told_to(request_pem: str, error: str) -> None:
    errors = lib.request_errors(request_pem, change(names=("gpu1",)))
    assert len(errors) == 1, errors
    assert error in errors[0]


def test_a_request_as_it_was_asked_for_passes() -> None:
    for key_type in lib.KEY_TYPES:
        wanted = change(key_type=key_type, common_name="x" * 80)
        assert lib.request_errors(lib.create_request(lib.create_key(key_type), wanted), wanted) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "versions"}, "neither 'versions'"),
        ({"name": "../x"}, "use small letters"),
        ({"names": ()}, "at least one name"),
        ({"usages": ("both",)}, "usages must be"),
        ({"key_type": "dsa"}, "key_type must be"),
    ],
)
def test_mistakes_in_what_is_wanted(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(lib.CertificateError, match=error):
        change(**changes)


def test_a_name_that_no_certificate_can_carry_is_explained() -> None:
    with pytest.raises(lib.CertificateError, match="xn--"):
        lib.create_request(lib.create_key("ecdsa-p256"), change(names=("größe.example",)))


# ------------------------------------------------------------------------------------------------------- provided


@pytest.fixture
def provided() -> tuple[str, str]:
    key = lib.create_key("ecdsa-p256")
    return SERVERS.sign(lib.create_request(key, change(names=("api.example.com", "*.ml.example.com")))), key


def test_a_good_provided_certificate(provided: tuple[str, str]) -> None:
    names = ["api.example.com", "x.ml.example.com"]
    assert lib.provided_errors(*provided, [SERVERS.pem], names, NOW) == []


@pytest.mark.parametrize(
    ("chain", "names", "now", "error"),
    [
        ([SERVERS.pem], ["y.x.ml.example.com"], NOW, "not good for y.x.ml.example.com"),
        ([SERVERS.pem], ["API.example.com"], NOW + 400 * DAY, "ended on 2027-05-31"),
        ([SERVERS.pem], [], NOW - 5 * DAY, "begins only on"),
        ([ROOT.pem], [], NOW, "did not issue the certificate"),
        ([SERVERS.pem, Issuer("root").pem], [], NOW, "did not issue certificate 1"),
        ([], [], NOW, "the chain is missing"),
    ],
)
def test_what_is_wrong_with_a_provided_certificate(
    provided: tuple[str, str], chain: list[str], names: list[str], now: datetime.datetime, error: str
) -> None:
    errors = lib.provided_errors(*provided, chain, names, now)
    assert len(errors) == 1, errors
    assert error in errors[0]


def test_a_provided_key_has_to_belong(provided: tuple[str, str]) -> None:
    other = lib.create_key("ecdsa-p256")
    assert lib.provided_errors(provided[0], other, [SERVERS.pem], [], NOW) == [
        "the private key does not belong to the certificate"
    ]
    assert "not a private key" in lib.provided_errors(provided[0], "x", [SERVERS.pem], [], NOW, passphrase="p")[0]


def test_an_issuer_that_is_no_authority_is_refused() -> None:
    leaf = Issuer("leaf", ROOT, ca=False)
    key = lib.create_key("ecdsa-p256")
    certificate = leaf.sign(lib.create_request(key, WANTED))
    assert "is not an authority" in lib.provided_errors(certificate, key, [leaf.pem], ["gpu1"], NOW)[0]


def test_another_provided_certificate_is_due(installed: lib.CertificateStore, provided: tuple[str, str]) -> None:
    assert lib.due_reasons(installed.installed("server"), WANTED, CHAIN, NOW, provided[0]) == [
        "another certificate is provided"
    ]


# ---------------------------------------------------------------------------------------------------- authorities

ROOT_AUTHORITY = lib.Authority("root", "root", "root", (), 1)


def write_authority(directory: Path, issuer: Issuer, passphrase: bytes = b"right") -> None:
    (directory / "root-ca.pem").write_text(issuer.pem)
    (directory / "root-ca.key").write_bytes(
        issuer.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )
    )


def test_an_authority_as_it_shall_be(tmp_path: Path) -> None:
    assert lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "right", 30, NOW) == ["missing"]
    write_authority(tmp_path, Issuer("root"))
    assert lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "right", 30, NOW) == []
    later = NOW + 3640 * DAY
    assert lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "right", 30, later)[0].startswith("ends on")
    constrained = dataclasses.replace(ROOT_AUTHORITY, permitted=("DNS:example.com",))
    assert lib.authority_reasons(constrained, str(tmp_path), "right", 30, NOW)[0].startswith("name constraints")
    (tmp_path / "root-ca.pem").unlink()
    assert lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "right", 30, NOW) == ["the certificate is missing"]


def test_a_wrong_passphrase_is_said(tmp_path: Path) -> None:
    write_authority(tmp_path, Issuer("root"))
    with pytest.raises(lib.CertificateError, match="cannot be opened with the ai102_secrets_passphrase"):
        lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "wrong", 30, NOW)


def test_a_lost_key_is_said_and_never_replaced(tmp_path: Path) -> None:
    write_authority(tmp_path, Issuer("root"))
    (tmp_path / "root-ca.key").unlink()
    with pytest.raises(lib.CertificateError, match="restore the key from your backup"):
        lib.authority_reasons(ROOT_AUTHORITY, str(tmp_path), "right", 30, NOW)


def test_a_replaced_issuer_makes_an_authority_due(tmp_path: Path) -> None:
    write_authority(tmp_path, Issuer("root"))
    (tmp_path / "root-ca.pem").write_text(Issuer("root").pem)
    assert "key and certificate do not belong together" in lib.authority_reasons(
        ROOT_AUTHORITY, str(tmp_path), "right", 30, NOW
    )


def test_a_request_that_was_tampered_with_is_refused() -> None:
    request = x509.load_pem_x509_csr(lib.create_request(lib.create_key("rsa-3072"), WANTED).encode())
    content = bytearray(request.public_bytes(serialization.Encoding.DER))
    content[-1] ^= 1
    tampered = x509.load_der_x509_csr(bytes(content)).public_bytes(serialization.Encoding.PEM).decode()
    assert lib.request_errors(tampered, change(key_type="rsa-3072")) == ["the request is not signed by its own key"]


def test_a_chain_that_has_ended_is_refused(provided: tuple[str, str]) -> None:
    certificate, parent = lib.load_certificate(provided[0]), lib.load_certificate(SERVERS.pem)
    assert lib.chain_errors(certificate, [parent], NOW + 3651 * DAY) == [
        f"certificate 1 of the chain ended on {NOW + 3650 * DAY:%Y-%m-%d}"
    ]


def test_a_provided_certificate_has_to_be_for_servers() -> None:
    key = lib.create_key("ecdsa-p256")
    certificate = SERVERS.sign(lib.create_request(key, change(usages=("client",))))
    assert lib.provided_errors(certificate, key, [SERVERS.pem], ["gpu1"], NOW) == ["not meant for servers"]
