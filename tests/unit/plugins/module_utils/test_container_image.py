# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images by their digest. Real engines and a real registry are used in the Molecule scenario `image`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._container_image import (
    Image,
    ImageError,
    Reference,
    digests_in,
    explain,
    refuse_old,
    removable,
    write_access,
    wrong_labels,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("registry", "repository"),
    [("10.0.0.5:5000", "ai102-server"), ("registry.example", "team/ai102_server"), ("[fd00::5]:5000", "a")],
)
def test_a_reference_is_read_and_written(registry: str, repository: str) -> None:
    text = f"{registry}/{repository}@{DIGEST}"
    reference = Reference.parse(text)
    assert reference == Reference(registry, repository, DIGEST)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ai102-server",
        f"ai102-server@{DIGEST}",
        "10.0.0.5:5000/ai102-server:latest",
        f"10.0.0.5:5000/ai102-server:1@{DIGEST}",
        f"10.0.0.5:5000/ai102-server@{DIGEST[:-1]}",
        f"10.0.0.5:5000/ai102-server@{DIGEST.upper()}",
        f"10.0.0.5:5000/AI@{DIGEST}",
        f"--all /x@{DIGEST}",
        f"10.0.0.5:5000/ai102-server@{DIGEST}\n",
    ],
)
def test_what_may_be_another_image_tomorrow_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="by its digest"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        # As podman 4.3 and 5.4, skopeo 1.9 and docker-registry 2.8 say it.
        (
            'Error: pinging registry: Get "https://10.0.0.5:5000/v2/": x509: certificate signed by unknown authority',
            "the certificate of the registry is not one",
        ),
        (
            "tls: failed to verify certificate: x509: certificate is valid for 10.0.0.6, not 10.0.0.5",
            "the certificate of the registry is not one",
        ),
        ("reading manifest sha256:00 in 10.0.0.5:5000/a: unauthorized: authentication required", "refuses the account"),
        ("reading manifest sha256:00 in 10.0.0.5:5000/a: manifest unknown", "the registry has no such image"),
        (
            "Error: Manifest does not match provided manifest digest sha256:00",
            "what the registry sent is not the image",
        ),
        ("dial tcp 10.0.0.5:5000: connect: connection refused", "the registry does not answer"),
        ("http: server gave HTTP response to HTTPS client", "does not speak TLS"),
        ("write /var/lib/containers/x: no space left on device", "the disk"),
        ("something else", "something else"),
        ("", "it printed nothing"),
    ],
)
def test_what_engines_say_is_explained(said: str, cause: str) -> None:
    explained = explain(said)
    assert explained.startswith(cause) or cause in explained.partition(" (")[0]
    assert " ".join(said.split()) in explained


def test_an_old_engine_is_refused_before_anything_is_pulled() -> None:
    for version in ("4.3.1\n", "4.9.3", "5.4.2", "10.0", "strange", ""):
        refuse_old(version)
    for version in ("3.4.4\n", "4.2.0"):
        with pytest.raises(ImageError, match=rf"Podman {version.strip()} is too old"):
            refuse_old(version)


def test_credentials_are_in_a_file_of_their_own_and_in_no_option(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("PEM")
    access = tmp_path / "access"
    access.mkdir()
    options = write_access(access, "10.0.0.5:5000", "user", "secret", str(authority))
    assert options == [f"--authfile={access}/auth.json", f"--cert-dir={access}/trust"]
    assert (access / "auth.json").stat().st_mode & 0o777 == 0o600
    written = json.loads((access / "auth.json").read_text())
    assert base64.b64decode(written["auths"]["10.0.0.5:5000"]["auth"]) == b"user:secret"
    assert (access / "trust/ca.crt").read_text() == "PEM"
    other = tmp_path / "other"
    other.mkdir()
    assert write_access(other, "10.0.0.5:5000", "", "", "") == []
    with pytest.raises(ImageError, match="authorities of the registry cannot be read"):
        write_access(other, "10.0.0.5:5000", "", "", str(tmp_path / "nothing"))


def inspected(number: int, repository: str = "10.0.0.5:5000/ai102-server") -> Image:
    digest = f"sha256:{number:064x}"
    return Image.from_inspection(
        {
            "Id": f"id{number}",
            "RepoDigests": [f"{repository}@{digest}"],
            "Size": 100,
            "Created": f"2026-11-{number:02d}T00:00:00Z",
            "Labels": {"ai102.flavour": "cpu"},
            "RootFS": {"Layers": ["a", "b"]},
        }
    )


def test_an_inspection_of_either_engine_is_read() -> None:
    podman = inspected(1)
    assert podman.to_dict() == {
        "id": "id1",
        "size": 100,
        "layers": 2,
        "user": "",
        "labels": {"ai102.flavour": "cpu"},
    }
    docker = Image.from_inspection({"Id": "x", "Config": {"Labels": {"a": "b"}, "User": "10001:10001"}})
    assert (docker.labels, docker.user, docker.names) == ({"a": "b"}, "10001:10001", ())
    assert wrong_labels(podman, {"ai102.flavour": "cpu"}) == []
    assert wrong_labels(podman, {"ai102.flavour": "gpu", "other": "1"}) == [
        "ai102.flavour is 'cpu' and should be 'gpu'",
        "other is 'missing' and should be '1'",
    ]


def test_old_images_go_and_those_in_use_stay() -> None:
    every = [inspected(number) for number in (3, 1, 2, 5, 4)] + [inspected(6, "10.0.0.5:5000/other")]
    wanted = Reference("10.0.0.5:5000", "ai102-server", f"sha256:{5:064x}")
    in_use = digests_in([f"ExecStart=podman run 10.0.0.5:5000/ai102-server@sha256:{1:064x} serve", "nothing"])
    assert [image.id for image in removable(every, wanted, in_use, 0)] == ["id2", "id3", "id4"]
    assert [image.id for image in removable(every, wanted, in_use, 1)] == ["id2", "id3"]
    assert removable(every, wanted, in_use, 3) == []
