# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of a host: what is wanted, what is there, what is due, and how a new one is put in place.

A certificate lives in `<path>/versions/<name>-<id>/{key,cert,fullchain}.pem`; `<path>/<name>` is a symbolic link to the
version in use, so key, certificate and chain are always exchanged together. A request that has not been answered yet
lives in `<path>/pending/<name>/`; it is taken up again after an interruption.

Works with python3-cryptography from 3.4.8 (Ubuntu 22.04) on.
"""

from __future__ import annotations

import contextlib
import datetime
import grp
import hashlib
import ipaddress
import json
import os
import pwd
import re
import shutil
import tempfile
import traceback
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CRYPTOGRAPHY_IMPORT_ERROR: str | None
try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    CRYPTOGRAPHY_IMPORT_ERROR = traceback.format_exc()
else:
    CRYPTOGRAPHY_IMPORT_ERROR = None

KEY_TYPES = ("ecdsa-p256", "ecdsa-p384", "rsa-3072")
USAGES = ("server", "client")
_FILES = ("key.pem", "cert.pem", "fullchain.pem")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MAX_COMMON_NAME = 64  # characters, a limit of X.509


class CertificateError(ValueError):
    """A certificate, key, request or stored state cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Wanted:
    """One certificate that a host shall have.

    Attributes:
        name: name of its directory, such as `server`.
        common_name: the subject's common name (cut to 64 characters in the certificate).
        names: host names and IP addresses for the subject alternative names.
        usages: what it may be used for, of `server` and `client`.
        key_type: kind of private key, one of `KEY_TYPES`.
        owner: user that owns the private key.
        group: group that owns the private key.
        renew_before: days before its end from which on it is due for renewal.
    """

    name: str
    common_name: str
    names: tuple[str, ...]
    usages: tuple[str, ...]
    key_type: str = "ecdsa-p256"
    owner: str = "root"
    group: str = "root"
    renew_before: int = 30

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in ("versions", "pending"):
            raise CertificateError(
                f"certificate name {self.name!r}: use small letters, digits, '-' and '_', at most 40, "
                "and neither 'versions' nor 'pending'"
            )
        if not self.names:
            raise CertificateError(f"certificate {self.name}: needs at least one name or address")
        if not self.usages or set(self.usages) - set(USAGES):
            raise CertificateError(f"certificate {self.name}: usages must be some of {', '.join(USAGES)}")
        if self.key_type not in KEY_TYPES:
            raise CertificateError(f"certificate {self.name}: key_type must be one of {', '.join(KEY_TYPES)}")

    def digest(self) -> str:
        """Hash of all that goes into the request, so that a pending request for something else is not used."""
        content = [self.common_name, sorted(self.names), sorted(self.usages), self.key_type]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Installed:
    """What a version directory holds (PEM), and who owns the key."""

    key: str
    cert: str
    fullchain: str
    owner: str
    group: str
    mode: int


# ---------------------------------------------------------------------------------------------------------- reading


def split_certificates(pem: str) -> list[str]:
    """The certificates of a PEM text, each with a final newline."""
    return [match.group(0) + "\n" for match in _PEM_CERTIFICATE.finditer(pem)]


def load_certificate(pem: str, what: str = "certificate") -> x509.Certificate:
    """The first certificate of a PEM text.

    Raises:
        CertificateError: there is none, or it cannot be read.
    """
    parts = split_certificates(pem)
    if not parts:
        raise CertificateError(f"{what}: no certificate in PEM form found")
    try:
        return x509.load_pem_x509_certificate(parts[0].encode())
    except ValueError as error:
        raise CertificateError(f"{what}: not a readable certificate: {error}") from error


def load_key(pem: str, what: str = "private key", passphrase: str | None = None) -> t.Any:
    """A private key.

    Raises:
        CertificateError: it cannot be read, or not with this passphrase.
    """
    try:
        return serialization.load_pem_private_key(pem.encode(), passphrase.encode() if passphrase else None)
    except TypeError as error:  # a passphrase is missing, or was given for a plain key
        raise CertificateError(f"{what}: {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "wrong passphrase, or not a private key in PEM form" if passphrase else str(error)
        raise CertificateError(f"{what}: {hint}") from error


def public_bytes(key: t.Any) -> bytes:
    """A public key in the one form in which two keys can be compared."""
    return t.cast(
        bytes,
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, in hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def not_after(certificate: x509.Certificate) -> datetime.datetime:
    """The end of a certificate's validity, with UTC as time zone."""
    if hasattr(certificate, "not_valid_after_utc"):  # cryptography 42 and newer
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def not_before(certificate: x509.Certificate) -> datetime.datetime:
    """The beginning of a certificate's validity, with UTC as time zone."""
    if hasattr(certificate, "not_valid_before_utc"):  # cryptography 42 and newer
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=datetime.timezone.utc)


def normalised_name(name: str) -> str:
    """A host name in small letters without its final dot, or an IP address in its shortest form."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def names_of(holder: t.Any) -> set[str]:
    """DNS names and IP addresses among the subject alternative names of a certificate or a request."""
    try:
        extension = holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    names = {normalised_name(name) for name in extension.get_values_for_type(x509.DNSName)}
    names.update(str(address) for address in extension.get_values_for_type(x509.IPAddress))
    return names


def usages_of(holder: t.Any) -> set[str]:
    """Usages of a certificate or a request: `server`, `client`, or the dotted identifier of another."""
    known = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
    try:
        extension = holder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return set()
    return {known.get(oid, oid.dotted_string) for oid in extension}


def common_name_of(holder: t.Any) -> str:
    """The common name in the subject of a certificate or a request, or an empty text."""
    attributes = holder.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else ""


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made this certificate's signature (and the names agree)."""
    if certificate.issuer != issuer.subject:
        return False
    key = issuer.public_key()
    signature, content, algorithm = (
        certificate.signature,
        certificate.tbs_certificate_bytes,
        certificate.signature_hash_algorithm,
    )
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, content, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, content, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def chain_errors(leaf: x509.Certificate, chain: Sequence[x509.Certificate], now: datetime.datetime) -> list[str]:
    """What is wrong with a chain: order, signatures, validity, and issuers that are no authorities.

    Args:
        leaf: the host's certificate.
        chain: its issuer, that one's issuer, and so on.
        now: the time to compare validity with.

    Returns:
        One text for each error; empty for a good chain.
    """
    errors: list[str] = []
    child, child_text = leaf, "the certificate"
    for position, parent in enumerate(chain, start=1):
        if not issued_by(child, parent):
            errors.append(
                f"certificate {position} of the chain ({parent.subject.rfc4514_string()}) did not issue {child_text}"
            )
            break
        try:
            constraints = parent.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            errors.append(f"certificate {position} of the chain is not an authority")
        if not_after(parent) <= now:
            errors.append(f"certificate {position} of the chain ended on {not_after(parent):%Y-%m-%d}")
        child, child_text = parent, f"certificate {position} of the chain"
    return errors


def covers(certificate_names: set[str], name: str) -> bool:
    """Whether a certificate with these names is good for a name; `*.` stands for one label, as clients take it."""
    name = normalised_name(name)
    return name in certificate_names or ("." in name and "*." + name.split(".", 1)[1] in certificate_names)


def describe(certificate: x509.Certificate, path: str) -> dict[str, str]:
    """What is told about an installed certificate."""
    return {
        "fingerprint": fingerprint(certificate),
        "not_after": not_after(certificate).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "path": path,
    }


# ----------------------------------------------------------------------------------------------- making and judging


def create_key(key_type: str) -> str:
    """A new private key, as unencrypted PKCS #8 in PEM form."""
    key: t.Any
    if key_type == "rsa-3072":
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    else:
        key = ec.generate_private_key(ec.SECP384R1() if key_type == "ecdsa-p384" else ec.SECP256R1())
    return plain_key(key)


def plain_key(key: t.Any) -> str:
    """A private key as unencrypted PKCS #8 in PEM form."""
    return t.cast(
        bytes,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    ).decode()


def key_type_of(key: t.Any) -> str:
    """The kind of a private key, as in `KEY_TYPES`, or `other`."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}.get(key.curve.name, "other")
    return "other"


def create_request(key_pem: str, wanted: Wanted) -> str:
    """A certificate signing request in PEM form for a key."""
    key = load_key(key_pem)
    names: list[x509.GeneralName] = []
    for name in sorted({normalised_name(name) for name in wanted.names}):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                names.append(x509.DNSName(name))
            except ValueError as error:
                raise CertificateError(
                    f"certificate {wanted.name}: {name!r} is neither an IP address nor a host name in ASCII letters "
                    "(write names of other scripts in their xn-- form)"
                ) from error
    oids = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name[:_MAX_COMMON_NAME])]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_encipherment=wanted.key_type.startswith("rsa"),
                content_commitment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([oids[usage] for usage in sorted(wanted.usages)]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def request_errors(request_pem: str, wanted: Wanted) -> list[str]:
    """In what a request differs from what the inventory wants for that host.

    The control node asks this before it signs: a host must not get a certificate for somebody else's name, or one that
    may do more, by sending another request than it was asked for.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
    except ValueError as error:
        return [f"the request cannot be read: {error}"]
    errors: list[str] = []
    if not request.is_signature_valid:
        errors.append("the request is not signed by its own key")
    expected = {normalised_name(name) for name in wanted.names}
    if names_of(request) != expected:
        errors.append(f"names are {sorted(names_of(request))}, wanted are {sorted(expected)}")
    if usages_of(request) != set(wanted.usages):
        errors.append(f"usages are {sorted(usages_of(request))}, wanted are {sorted(wanted.usages)}")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name[:_MAX_COMMON_NAME])])
    if request.subject != subject:
        errors.append(f"subject is {request.subject.rfc4514_string()!r}, wanted is {subject.rfc4514_string()!r}")
    allowed = (x509.SubjectAlternativeName, x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    for extension in request.extensions:
        if not isinstance(extension.value, allowed):
            errors.append(f"carries an extension that was not asked for ({extension.oid.dotted_string})")
        elif isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            errors.append("asks for an authority")
        elif isinstance(extension.value, x509.SubjectAlternativeName) and any(
            not isinstance(name, (x509.DNSName, x509.IPAddress)) for name in extension.value
        ):
            errors.append("carries names of a kind that was not asked for")
        elif isinstance(extension.value, x509.KeyUsage) and (extension.value.key_cert_sign or extension.value.crl_sign):
            errors.append("asks for the right to sign certificates")
    return errors


def due_reasons(
    installed: Installed | None,
    wanted: Wanted,
    issuer: Sequence[str],
    now: datetime.datetime,
    provided: str | None = None,
) -> list[str]:
    """Why a certificate has to be issued (or delivered) anew.

    Args:
        installed: what the host has, None for nothing.
        wanted: what it shall have.
        issuer: PEM of the issuing authority and of those above it, nearest first; empty where it is not known yet.
        now: the time to compare validity with.
        provided: PEM of the certificate where one is provided instead of issued.

    Returns:
        One text for each reason; empty when nothing is due.
    """
    if installed is None:
        return ["missing"]
    try:
        certificate = load_certificate(installed.cert, "installed certificate")
        key = load_key(installed.key, "installed key")
    except CertificateError as error:
        return [str(error)]
    reasons: list[str] = []
    if public_bytes(key.public_key()) != public_bytes(certificate.public_key()):
        reasons.append("key and certificate do not belong together")
    if (installed.owner, installed.group) != (wanted.owner, wanted.group):
        reasons.append(
            f"the key belongs to {installed.owner}:{installed.group}, wanted is {wanted.owner}:{wanted.group}"
        )
    if installed.mode != 0o600:
        reasons.append(f"the key has mode {installed.mode:04o}, wanted is 0600")
    if provided is not None:
        if fingerprint(certificate) != fingerprint(load_certificate(provided, "provided certificate")):
            reasons.append("another certificate is provided")
    else:
        expected = {normalised_name(name) for name in wanted.names}
        if names_of(certificate) != expected:
            reasons.append(f"names are {sorted(names_of(certificate))}, wanted are {sorted(expected)}")
        if usages_of(certificate) != set(wanted.usages):
            reasons.append(f"usages are {sorted(usages_of(certificate))}, wanted are {sorted(wanted.usages)}")
        if common_name_of(certificate) != wanted.common_name[:_MAX_COMMON_NAME]:
            reasons.append(f"common name is {common_name_of(certificate)!r}, wanted is {wanted.common_name!r}")
        if key_type_of(key) != wanted.key_type:
            reasons.append(f"key is {key_type_of(key)}, wanted is {wanted.key_type}")
        if not issuer or not issued_by(certificate, load_certificate(issuer[0], "issuing authority")):
            reasons.append("issued by another authority")
        end = not_after(certificate)
        if end - now < datetime.timedelta(days=wanted.renew_before):
            reasons.append(f"ends on {end:%Y-%m-%d}, less than {wanted.renew_before} days from now")
    if not reasons and chain_pems(installed.fullchain) != chain_pems("".join([installed.cert, *delivered(issuer)])):
        reasons.append("the chain has changed")
    return reasons


def delivered(issuer: Sequence[str]) -> list[str]:
    """The authorities that a host has to send along: all but those that sign themselves, which peers must have."""
    return [pem for pem in issuer if not is_self_signed(load_certificate(pem, "issuing authority"))]


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate is its own issuer."""
    return certificate.subject == certificate.issuer


def chain_pems(pem: str) -> list[str]:
    """The certificates of a PEM text without what does not matter, to compare two chains."""
    return ["".join(part.split()) for part in split_certificates(pem)]


def provided_errors(
    certificate_pem: str,
    key_pem: str,
    chain: Sequence[str],
    names: Sequence[str],
    now: datetime.datetime,
    min_days: int = 0,
    passphrase: str | None = None,
) -> list[str]:
    """What is wrong with a certificate that somebody else issued and the operator provides.

    Args:
        certificate_pem: the certificate.
        key_pem: its private key.
        chain: PEM of the certificates above it, nearest first.
        names: names it has to be good for.
        now: the time to compare validity with.
        min_days: days it has to be valid for at least.
        passphrase: of the private key, where it is encrypted.

    Returns:
        One text for each error; empty when it can be used.
    """
    try:
        certificate = load_certificate(certificate_pem)
        key = load_key(key_pem, passphrase=passphrase)
        parents = [load_certificate(pem, "chain") for pem in chain]
    except CertificateError as error:
        return [str(error)]
    errors: list[str] = []
    if public_bytes(key.public_key()) != public_bytes(certificate.public_key()):
        errors.append("the private key does not belong to the certificate")
    present = names_of(certificate)
    missing = [name for name in names if not covers(present, name)]
    if missing:
        errors.append(f"not good for {', '.join(missing)}; its names are {', '.join(sorted(present)) or 'none'}")
    if not_after(certificate) <= now:
        errors.append(f"ended on {not_after(certificate):%Y-%m-%d}")
    elif not_after(certificate) - now < datetime.timedelta(days=min_days):
        errors.append(f"ends on {not_after(certificate):%Y-%m-%d}, in less than {min_days} days")
    if not_before(certificate) > now:
        errors.append(f"begins only on {not_before(certificate):%Y-%m-%d}")
    usages = usages_of(certificate)
    if usages and "server" not in usages:
        errors.append("not meant for servers")
    errors.extend(chain_errors(certificate, parents, now))
    if not parents and certificate.issuer != certificate.subject:
        errors.append(
            f"the chain is missing: it was issued by {certificate.issuer.rfc4514_string()!r}, whose certificate "
            "clients need; give it as `chain`, or after the certificate in its own file"
        )
    return errors


# ------------------------------------------------------------------------------------------------ on the host's disk


def _ids(owner: str, group: str) -> tuple[int, int]:
    try:
        user_id = pwd.getpwnam(owner).pw_uid
    except KeyError as error:
        raise CertificateError(f"there is no user {owner!r} on this host to own the private key") from error
    try:
        return user_id, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise CertificateError(f"there is no group {group!r} on this host to own the private key") from error


def _owner_names(status: os.stat_result) -> tuple[str, str]:
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return owner, group


def write_file(path: str, content: str, mode: int, ids: tuple[int, int] | None = None) -> None:
    """Writes a file so that it appears complete or not at all, never with wider rights than it shall have."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        if ids is not None:
            os.chown(temporary, *ids)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_file(path: str) -> str | None:
    """Content of a text file, None where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


class CertificateStore:
    """The certificates of one host on its disk.

    Args:
        path: the directory, such as `/etc/ai102/pki`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.versions = os.path.join(path, "versions")
        self.pending = os.path.join(path, "pending")

    def link(self, name: str) -> str:
        """Path by which a certificate is used."""
        return os.path.join(self.path, name)

    def installed(self, name: str) -> Installed | None:
        """What the link of this name leads to; None when it leads nowhere or a file is missing.

        Raises:
            CertificateError: the path is taken by something that is not ours.
        """
        link = self.link(name)
        if os.path.lexists(link) and not os.path.islink(link):
            raise CertificateError(
                f"{link} is not a symbolic link: move away what is there, it was not made by this role"
            )
        contents = {file: read_file(os.path.join(link, file)) for file in _FILES}
        if any(content is None for content in contents.values()):
            return None
        status = os.stat(os.path.join(link, "key.pem"))
        owner, group = _owner_names(status)
        return Installed(
            key=contents["key.pem"] or "",
            cert=contents["cert.pem"] or "",
            fullchain=contents["fullchain.pem"] or "",
            owner=owner,
            group=group,
            mode=status.st_mode & 0o7777,
        )

    def request(self, wanted: Wanted) -> str:
        """The request for a certificate, made with a new key unless the same one is pending already."""
        directory = os.path.join(self.pending, wanted.name)
        key, request = read_file(os.path.join(directory, "key.pem")), read_file(os.path.join(directory, "csr.pem"))
        if key and request and read_file(os.path.join(directory, "wanted")) == wanted.digest():
            try:
                if not request_errors(request, wanted) and key_matches_request(key, request):
                    return request
            except CertificateError:
                pass  # a torn file: make the request anew
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(self.pending, mode=0o700, exist_ok=True)
        os.chmod(self.pending, 0o700)
        os.mkdir(directory, mode=0o700)
        key = create_key(wanted.key_type)
        request = create_request(key, wanted)
        write_file(os.path.join(directory, "key.pem"), key, 0o600)
        write_file(os.path.join(directory, "csr.pem"), request, 0o600)
        write_file(os.path.join(directory, "wanted"), wanted.digest(), 0o600)
        return request

    def pending_key(self, name: str) -> str:
        """Private key of the pending request.

        Raises:
            CertificateError: there is none.
        """
        key = read_file(os.path.join(self.pending, name, "key.pem"))
        if not key:
            raise CertificateError(f"certificate {name}: no request is pending on this host")
        return key

    def install(self, wanted: Wanted, key: str, certificate: str, chain: Sequence[str], keep: int = 2) -> str:
        """Puts a certificate in place together with its key and chain, and takes the request away.

        Args:
            wanted: name and owner.
            key: private key, PEM.
            certificate: PEM.
            chain: PEM of the certificates above it that a peer needs, nearest first.
            keep: versions of this name to keep, the new one included.

        Returns:
            Path of the new version's directory.
        """
        ids = _ids(wanted.owner, wanted.group)
        leaf = split_certificates(certificate)[0]
        os.makedirs(self.versions, mode=0o755, exist_ok=True)
        # The owner is part of the version, so that a change of owner is a new version as well.
        identity = hashlib.sha256(
            "\n".join([leaf, *chain, key_id(key), wanted.owner, wanted.group]).encode()
        ).hexdigest()[:16]
        version = os.path.join(self.versions, f"{wanted.name}-{identity}")
        staging = tempfile.mkdtemp(dir=self.versions, prefix=".tmp-")
        try:
            write_file(os.path.join(staging, "key.pem"), key, 0o600, ids)
            write_file(os.path.join(staging, "cert.pem"), leaf, 0o644)
            write_file(os.path.join(staging, "fullchain.pem"), "".join([leaf, *chain]), 0o644)
            os.chmod(staging, 0o755)  # noqa: S103 - certificates are for everybody; keys have rights of their own
            if os.path.isdir(version):  # the remains of an interrupted run, or somebody edited it: exchange it
                os.rename(version, staging + ".old")
            os.rename(staging, version)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(staging + ".old", ignore_errors=True)
        self._switch(wanted.name, version)
        shutil.rmtree(os.path.join(self.pending, wanted.name), ignore_errors=True)
        self._prune(wanted.name, version, keep)
        return version

    def _switch(self, name: str, version: str) -> None:
        temporary = os.path.join(self.path, f".{name}.{os.getpid()}.link")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(os.path.relpath(version, self.path), temporary)
        os.rename(temporary, self.link(name))

    def _prune(self, name: str, current: str, keep: int) -> None:
        pattern = re.compile(re.escape(name) + r"-[0-9a-f]{16}")
        paths = [os.path.join(self.versions, entry) for entry in os.listdir(self.versions) if pattern.fullmatch(entry)]
        others = sorted((path for path in paths if path != current), key=os.path.getmtime, reverse=True)
        for path in others[max(keep - 1, 0) :]:
            shutil.rmtree(path, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Takes a certificate and all its versions away."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.link(name))
        self._prune(name, "", 1)
        shutil.rmtree(os.path.join(self.pending, name), ignore_errors=True)

    def remains(self) -> Iterator[str]:
        """Names of the links that lead into our versions."""
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.listdir(self.path)):
                link = self.link(entry)
                if os.path.islink(link) and os.readlink(link).startswith("versions/"):
                    yield entry


def key_id(key_pem: str) -> str:
    """Hash of the public half of a private key, in hexadecimal digits."""
    return hashlib.sha256(public_bytes(load_key(key_pem).public_key())).hexdigest()


def key_matches_request(key_pem: str, request_pem: str) -> bool:
    """Whether a request was made with a key."""
    request = x509.load_pem_x509_csr(request_pem.encode())
    return public_bytes(load_key(key_pem).public_key()) == public_bytes(request.public_key())


# ------------------------------------------------------------------------------------ authorities on the control node


@dataclass(frozen=True)
class Authority:
    """One authority on the control node.

    Attributes:
        name: `root`, `server` or `client`; its files are `<name>-ca.pem` and `<name>-ca.key`.
        common_name: its subject's common name.
        issuer: name of the authority that signs it; its own name where it signs itself.
        usages: usages its certificates are confined to; empty for any.
        path_length: authorities that may follow below it.
        permitted: name constraints as in `DNS:example.internal` or `IP:10.0.0.0/8`; empty for none.
    """

    name: str
    common_name: str
    issuer: str
    usages: tuple[str, ...]
    path_length: int
    permitted: tuple[str, ...] = ()


def permitted_of(certificate: x509.Certificate) -> set[str]:
    """Permitted name constraints of an authority, as `DNS:…` and `IP:…`."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return set()
    names: set[str] = set()
    for name in constraints.permitted_subtrees or []:
        if isinstance(name, x509.DNSName):
            names.add(f"DNS:{name.value.lower()}")
        elif isinstance(name, x509.IPAddress):
            names.add(f"IP:{name.value}")
    return names


def authority_reasons(
    authority: Authority,
    directory: str,
    passphrase: str,
    renew_before: int,
    now: datetime.datetime,
) -> list[str]:
    """Why an authority on the control node has to be made or its certificate issued anew.

    Args:
        authority: what it shall be.
        directory: where its files are.
        passphrase: of its private key.
        renew_before: days before its end from which on it is due.
        now: the time to compare validity with.

    Returns:
        One text for each reason; empty when it is as it shall be.

    Raises:
        CertificateError: the key is there but cannot be used, or a certificate has lost its key.
    """
    key_path = os.path.join(directory, f"{authority.name}-ca.key")
    certificate_path = os.path.join(directory, f"{authority.name}-ca.pem")
    key_pem, certificate_pem = read_file(key_path), read_file(certificate_path)
    if key_pem is None:
        if certificate_pem is not None:
            raise CertificateError(
                f"{certificate_path} is there but its private key {key_path} is not: restore the key from your backup, "
                "or remove the certificate to begin with a new authority (every certificate will be issued anew)"
            )
        return ["missing"]
    try:
        key = load_key(key_pem, key_path, passphrase)
    except CertificateError as error:
        raise CertificateError(
            f"{error}: it cannot be opened with the ai102_secrets_passphrase of this run. Give the one it was made "
            "with, or move the directory away to begin with new authorities (every certificate is issued anew then)"
        ) from error
    if certificate_pem is None:
        return ["the certificate is missing"]
    certificate = load_certificate(certificate_pem, certificate_path)
    reasons: list[str] = []
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        reasons.append("key and certificate do not belong together")
    if common_name_of(certificate) != authority.common_name:
        reasons.append(f"common name is {common_name_of(certificate)!r}, wanted is {authority.common_name!r}")
    if usages_of(certificate) != set(authority.usages):
        reasons.append(f"usages are {sorted(usages_of(certificate))}, wanted are {sorted(authority.usages)}")
    if permitted_of(certificate) != set(authority.permitted):
        reasons.append(
            f"name constraints are {sorted(permitted_of(certificate))}, wanted are {sorted(authority.permitted)}"
        )
    issuer_pem = read_file(os.path.join(directory, f"{authority.issuer}-ca.pem"))
    if issuer_pem is None or not issued_by(certificate, load_certificate(issuer_pem, f"{authority.issuer}-ca.pem")):
        reasons.append(f"not issued by the present authority {authority.issuer!r}")
    if not_after(certificate) - now < datetime.timedelta(days=renew_before):
        reasons.append(f"ends on {not_after(certificate):%Y-%m-%d}, less than {renew_before} days from now")
    return reasons
