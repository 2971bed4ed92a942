#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests the certificates of a host that are due, and installs the answers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: Certificates of a host, with private keys that never leave it
version_added: "0.1.0"
author:
  - AI-102 inference maintainers (@ai102)
description:
  - With O(state=requested), compares the certificates of a host with those it shall have, and for each one that is due
    makes a private key on the host and returns a certificate signing request. Where nothing is due this one call is all
    that a run costs.
  - With O(state=installed), checks the issued certificates against the pending keys, the names and the authority, and
    switches key, certificate and chain together, by one symbolic link for each certificate.
  - A certificate is due when it is missing, damaged, near its end, made for other names or another purpose, issued by
    another authority, or when the owner or mode of its key is another than wanted. It is never issued anew otherwise.
  - Requests are checked on the control node before they are returned, so that a host cannot obtain a certificate for
    anything but what the inventory says.
requirements:
  - python3-cryptography 3.4.8 or newer, on the host and on the control node
attributes:
  check_mode:
    description: Says what is due and makes nothing. Works on a host where python3-cryptography is not installed yet.
    support: full
  diff_mode:
    description: Shows for each certificate what is there, and why it is due.
    support: full
  idempotent:
    description: Changes nothing where nothing is due; a pending request is returned again rather than made again.
    support: full
options:
  path:
    description: Directory on the host that holds the certificates.
    type: path
    default: /etc/ai102/pki
  state:
    description:
      - V(requested) says what is due and returns requests; it also writes O(files).
      - V(installed) puts O(issued) and provided certificates in place.
      - V(absent) removes the certificates and O(files), and O(path) with them where nothing else is left in it.
    type: str
    choices: [requested, installed, absent]
    default: requested
  certificates:
    description: The certificates that the host shall have.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the directory under O(path), such as V(server).
        type: str
        required: true
      common_name:
        description: Common name of the subject, cut to 64 characters. Needed unless provided.
        type: str
      names:
        description: Host names and IP addresses that the certificate is for.
        type: list
        elements: str
        required: true
      usages:
        description: What it may be used for.
        type: list
        elements: str
        choices: [server, client]
        default: [server]
      key_type:
        description: Kind of the private key.
        type: str
        choices: [ecdsa-p256, ecdsa-p384, rsa-3072]
        default: ecdsa-p256
      owner:
        description: User that owns the private key, which has mode 0600.
        type: str
        default: root
      group:
        description: Group that owns the private key.
        type: str
        default: root
      renew_before:
        description: Days before its end from which on the certificate is due.
        type: int
        default: 30
      issuer:
        description:
          - The issuing authority's certificate and those above it in PEM form, nearest first.
          - Those that do not sign themselves go into the full chain.
        type: str
        default: ""
      provided:
        description:
          - A certificate that somebody else issued, taken from the control node instead of a request.
          - It is checked there (key, names, validity, chain) on every run.
        type: dict
        suboptions:
          certificate:
            description:
              - Path on the control node of the certificate.
              - The chain stands after it in the same file, or in O(certificates[].provided.chain).
            type: str
            required: true
          private_key:
            description: Path on the control node of the private key.
            type: str
            required: true
          chain:
            description: Path on the control node of the authorities between the certificate and the root.
            type: str
          passphrase:
            description: Passphrase of the private key.
            type: str
  files:
    description: Certificates of authorities to write under O(path), by file name.
    type: dict
    default: {}
  issued:
    description: Issued certificates in PEM form by name, for O(state=installed).
    type: dict
    default: {}
  exclusive:
    description: Whether to remove certificates under O(path) that are not in O(certificates).
    type: bool
    default: false
  keep:
    description: Versions of each certificate to keep, the present one included.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Ask what is due
  ai102.inference.host_certificate:
    state: requested
    certificates:
      - name: server
        common_name: gpu1
        names: [gpu1, 10.0.0.11]
        issuer: "{{ server_authority_pem }}"
    files:
      server_ca.pem: "{{ server_authority_pem }}"
  register: requested
  become: true

- name: Put the issued certificate in place
  ai102.inference.host_certificate:
    state: installed
    certificates:
      - name: server
        common_name: gpu1
        names: [gpu1, 10.0.0.11]
        issuer: "{{ server_authority_pem }}"
    issued:
      server: "{{ certificate_pem }}"
  become: true
"""

RETURN = r"""
due:
  description: Reasons for which certificates are due, by name.
  returned: always
  type: dict
  sample: {"server": ["missing"]}
requests:
  description: Requests to be signed.
  returned: with O(state=requested), outside check mode
  type: list
  elements: dict
  contains:
    name:
      description: Name of the certificate.
      type: str
    csr:
      description: The request in PEM form.
      type: str
certificates:
  description:
    - Installed certificates by name. Those that are due have V(pending) in place of fingerprint and end.
  returned: always
  type: dict
  sample: {"server": {"fingerprint": "0f3c…", "not_after": "2027-11-22T12:00:00Z", "path": "/etc/ai102/pki/server"}}
fingerprint:
  description: One fingerprint over all certificates and files, or V(pending).
  returned: always
  type: str
"""

import datetime
import hashlib
import os
import shutil
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.ai102.inference.plugins.module_utils import _certificate as lib

_PENDING = "pending"


class HostCertificates:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, t.Any] = module.params
        self.store = lib.CertificateStore(self.params["path"])
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.items: list[tuple[lib.Wanted, dict[str, t.Any]]] = [
            (wanted_of(item), item) for item in self.params["certificates"]
        ]
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}
        self.changed = False

    def issuer(self, item: dict[str, t.Any]) -> list[str]:
        """PEM of the authorities above a certificate."""
        return lib.split_certificates(item["issuer"])

    def files(self) -> None:
        """Writes the authorities' certificates."""
        for name, content in sorted(self.params["files"].items()):
            if os.path.basename(name) != name or not name.endswith(".pem"):
                raise lib.CertificateError(f"files: {name!r} is not a plain file name that ends in .pem")
            path = os.path.join(self.params["path"], name)
            present = lib.read_file(path)
            if present == content:
                continue
            self.before[name] = "absent" if present is None else subjects(present)
            self.after[name] = subjects(content)
            self.changed = True
            if not self.module.check_mode:
                lib.write_file(path, content, 0o644)

    def surplus(self) -> None:
        """Removes certificates that are not wanted any more."""
        if not self.params["exclusive"]:
            return
        for name in set(self.store.remains()) - {wanted.name for wanted, _item in self.items}:
            self.before[name] = "present"
            self.after[name] = "absent"
            self.changed = True
            if not self.module.check_mode:
                self.store.remove(name)

    def due(self, wanted: lib.Wanted, item: dict[str, t.Any]) -> list[str]:
        """Reasons for which one certificate is due."""
        return lib.due_reasons(
            self.store.installed(wanted.name), wanted, self.issuer(item), self.now, provided_pem(item)
        )

    def requested(self) -> dict[str, t.Any]:
        """State `requested`."""
        if not self.module.check_mode:
            os.makedirs(self.params["path"], mode=0o755, exist_ok=True)
        self.files()
        self.surplus()
        due: dict[str, list[str]] = {}
        requests: list[dict[str, str]] = []
        for wanted, item in self.items:
            reasons = self.due(wanted, item)
            if not reasons:
                continue
            due[wanted.name] = reasons
            self.before[wanted.name] = self.present(wanted.name)
            self.after[wanted.name] = "to be issued: " + "; ".join(reasons)
            self.changed = True
            if not self.module.check_mode and provided_pem(item) is None:
                requests.append({"name": wanted.name, "csr": self.store.request(wanted)})
        return {"due": due, "requests": requests}

    def installed(self) -> dict[str, t.Any]:
        """State `installed`."""
        due: dict[str, list[str]] = {}
        for wanted, item in self.items:
            reasons = self.due(wanted, item)
            if not reasons:
                continue
            due[wanted.name] = reasons
            self.changed = True
            self.before[wanted.name] = self.present(wanted.name)
            if self.module.check_mode:
                self.after[wanted.name] = "to be issued: " + "; ".join(reasons)
                continue
            provided = provided_pem(item)
            if provided is not None:
                key, certificate = item["provided"]["private_key"], provided
            else:
                if wanted.name not in self.params["issued"]:
                    raise lib.CertificateError(f"certificate {wanted.name} is due, but `issued` has no answer for it")
                key, certificate = self.store.pending_key(wanted.name), self.params["issued"][wanted.name]
                self.check(wanted, item, key, certificate)
            self.store.install(wanted, key, certificate, lib.delivered(self.issuer(item)), self.params["keep"])
            left = self.due(wanted, item)
            if left:
                raise lib.CertificateError(f"certificate {wanted.name} is still due after it was installed: {left}")
            self.after[wanted.name] = self.present(wanted.name)
        return {"due": {} if not self.module.check_mode else due}

    def check(self, wanted: lib.Wanted, item: dict[str, t.Any], key: str, pem: str) -> None:
        """Refuses an answer that is not one to our request."""
        certificate = lib.load_certificate(pem, f"issued certificate {wanted.name}")
        errors: list[str] = []
        if lib.public_bytes(lib.load_key(key).public_key()) != lib.public_bytes(certificate.public_key()):
            errors.append("it is not for the pending private key")
        expected = {lib.normalised_name(name) for name in wanted.names}
        if lib.names_of(certificate) != expected:
            errors.append(f"its names are {sorted(lib.names_of(certificate))}, wanted are {sorted(expected)}")
        if lib.usages_of(certificate) != set(wanted.usages):
            errors.append(f"its usages are {sorted(lib.usages_of(certificate))}, wanted are {sorted(wanted.usages)}")
        if lib.not_after(certificate) <= self.now:
            errors.append(f"it ended on {lib.not_after(certificate):%Y-%m-%d}")
        if lib.not_before(certificate) > self.now:
            errors.append(
                f"it begins at {lib.not_before(certificate):%Y-%m-%d %H:%M} UTC, this host's clock says "
                f"{self.now:%Y-%m-%d %H:%M}: set the clocks of host and control node"
            )
        issuer = [lib.load_certificate(part, "issuing authority") for part in self.issuer(item)]
        if not issuer:
            errors.append("its authority is not known")
        errors.extend(lib.chain_errors(certificate, issuer, self.now))
        if errors:
            raise lib.CertificateError(f"issued certificate {wanted.name} is refused: {'; '.join(errors)}")

    def absent(self) -> dict[str, t.Any]:
        """State `absent`."""
        path = self.params["path"]
        names = [name for name in self.params["files"] if os.path.lexists(os.path.join(path, name))]
        links = list(self.store.remains())
        directories = [entry for entry in (self.store.versions, self.store.pending) if os.path.isdir(entry)]
        for name in [*names, *links]:
            self.before[name] = "present"
            self.after[name] = "absent"
        self.changed = bool(names or links or directories)
        if self.changed and not self.module.check_mode:
            for name in [*links, *names]:
                os.unlink(os.path.join(path, name))
            for directory in directories:
                shutil.rmtree(directory)
            if not os.listdir(path):
                os.rmdir(path)
        return {"due": {}}

    def present(self, name: str) -> str:
        """One line about what is installed."""
        try:
            installed = self.store.installed(name)
            if installed is None:
                return "absent"
            certificate = lib.load_certificate(installed.cert)
        except lib.CertificateError as error:
            return str(error)
        return f"{', '.join(sorted(lib.names_of(certificate)))} until {lib.not_after(certificate):%Y-%m-%d}"

    def facts(self, due: dict[str, list[str]]) -> dict[str, t.Any]:
        """What is told about the certificates."""
        certificates: dict[str, dict[str, str]] = {}
        for wanted, _item in self.items:
            path = self.store.link(wanted.name)
            installed = None if wanted.name in due else self.store.installed(wanted.name)
            if installed is None:
                certificates[wanted.name] = {"fingerprint": _PENDING, "not_after": _PENDING, "path": path}
            else:
                certificates[wanted.name] = lib.describe(lib.load_certificate(installed.cert), path)
        return {"certificates": certificates, "fingerprint": combined(certificates, self.params["files"])}


def combined(certificates: dict[str, dict[str, str]], files: dict[str, str]) -> str:
    """One fingerprint over certificates and authorities, `pending` where one of them is."""
    parts = [f"{name}={certificate['fingerprint']}" for name, certificate in sorted(certificates.items())]
    if any(certificate["fingerprint"] == _PENDING for certificate in certificates.values()):
        return _PENDING
    parts.extend(f"{name}={hashlib.sha256(content.encode()).hexdigest()}" for name, content in sorted(files.items()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def wanted_of(item: dict[str, t.Any]) -> lib.Wanted:
    """The wanted certificate of a list item."""
    return lib.Wanted(
        name=item["name"],
        common_name=item["common_name"] or item["names"][0],
        names=tuple(item["names"]),
        usages=tuple(item["usages"]),
        key_type=item["key_type"],
        owner=item["owner"],
        group=item["group"],
        renew_before=item["renew_before"],
    )


def provided_pem(item: dict[str, t.Any]) -> str | None:
    """The provided certificate of a list item, which the action plugin has put where its path stood."""
    if not item["provided"]:
        return None
    pem: str = item["provided"]["certificate"]
    if not lib.split_certificates(pem):
        raise lib.CertificateError(
            f"certificate {item['name']}: the provided certificate was not read on the control node"
        )
    return pem


def subjects(pem: str) -> str:
    """Subjects and ends of the certificates in a PEM text."""
    certificates = [lib.load_certificate(part) for part in lib.split_certificates(pem)]
    return "; ".join(
        f"{certificate.subject.rfc4514_string()} until {lib.not_after(certificate):%Y-%m-%d}"
        for certificate in certificates
    )


def argument_spec() -> dict[str, t.Any]:
    """Arguments of the module; the action plugin of the same name exchanges `provided` for its content."""
    return {
        "path": {"type": "path", "default": "/etc/ai102/pki"},
        "state": {"type": "str", "choices": ["requested", "installed", "absent"], "default": "requested"},
        "certificates": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "common_name": {"type": "str"},
                "names": {"type": "list", "elements": "str", "required": True},
                "usages": {"type": "list", "elements": "str", "choices": ["server", "client"], "default": ["server"]},
                "key_type": {"type": "str", "choices": list(lib.KEY_TYPES), "default": "ecdsa-p256"},
                "owner": {"type": "str", "default": "root"},
                "group": {"type": "str", "default": "root"},
                "renew_before": {"type": "int", "default": 30},
                "issuer": {"type": "str", "default": ""},
                "provided": {
                    "type": "dict",
                    "options": {
                        "certificate": {"type": "str", "required": True},
                        "private_key": {"type": "str", "required": True, "no_log": True},
                        "chain": {"type": "str"},
                        "passphrase": {"type": "str", "no_log": True},
                    },
                },
            },
        },
        "files": {"type": "dict", "default": {}},
        "issued": {"type": "dict", "default": {}},
        "exclusive": {"type": "bool", "default": False},
        "keep": {"type": "int", "default": 2},
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    if lib.CRYPTOGRAPHY_IMPORT_ERROR is not None and module.params["state"] != "absent":
        if module.check_mode:  # a fresh host: the package would have been installed by now
            names = [item["name"] for item in module.params["certificates"]]
            path = module.params["path"]
            module.exit_json(
                changed=bool(names or module.params["files"]),
                due={name: ["missing (python3-cryptography is not installed yet)"] for name in names},
                requests=[],
                certificates={
                    name: {"fingerprint": _PENDING, "not_after": _PENDING, "path": os.path.join(path, name)}
                    for name in names
                },
                fingerprint=_PENDING,
                diff={"before": {}, "after": dict.fromkeys(names, "to be issued: missing")},
            )
        module.fail_json(
            msg=missing_required_lib("cryptography (Debian and Ubuntu: python3-cryptography)"),
            exception=lib.CRYPTOGRAPHY_IMPORT_ERROR,
        )
    try:
        call = HostCertificates(module)
        result: dict[str, t.Any] = getattr(call, module.params["state"])()
        if module.params["state"] != "absent":
            result.update(call.facts(result["due"]))
        else:
            result.update(certificates={}, fingerprint="")
    except (lib.CertificateError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=call.changed, diff={"before": call.before, "after": call.after}, **result)


if __name__ == "__main__":
    main()
