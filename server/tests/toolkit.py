# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the tests share: models, model packages, certificates, and server processes."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from onnx import TensorProto, helper, numpy_helper

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


# --------------------------------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------------------------------
def save_model(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def doubling_model(path: Path, factor: float = 2.0) -> Path:
    """``y = factor * x`` for FP32 of shape [n, 3], and ``total``, its sum over the second axis."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "factor"], ["y"]),
            helper.make_node("ReduceSum", ["y", "axes"], ["total"], keepdims=0),
        ],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n"]),
        ],
        [
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    return save_model(graph, path)


def echo_model(path: Path) -> Path:
    """One input ``in_<datatype>`` of shape [a, b] and one equal output ``out_<datatype>`` for every datatype."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in ONNX_TYPES],
        "echo",
        [helper.make_tensor_value_info(f"in_{name}", kind, [f"a_{name}", "b"]) for name, kind in ONNX_TYPES.items()],
        [helper.make_tensor_value_info(f"out_{name}", kind, [f"a_{name}", "b"]) for name, kind in ONNX_TYPES.items()],
    )
    return save_model(graph, path)


def slow_model(path: Path) -> Path:
    """``turns`` (INT64 scalar) multiplications of a matrix: about a second for each thousand."""
    boolean, integer, real = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "weights"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", integer, []),
            helper.make_tensor_value_info("go", boolean, []),
            helper.make_tensor_value_info("state", real, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("go_on", boolean, []),
            helper.make_tensor_value_info("next", real, [256, 256]),
        ],
        [numpy_helper.from_array(np.full((256, 256), 1 / 256, np.float32), "weights")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body),
            helper.make_node("ReduceSum", ["end"], ["total"], keepdims=0),
        ],
        "slow",
        [helper.make_tensor_value_info("turns", integer, [])],
        [helper.make_tensor_value_info("total", real, [])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.ones((256, 256), np.float32), "start"),
        ],
    )
    return save_model(graph, path)


def doubling_request(rows: list[list[float]] | None = None, **more: Any) -> dict[str, Any]:
    data = rows if rows is not None else [[1.0, 2.0, 3.0]]
    tensor = {"name": "x", "shape": [len(data), 3], "datatype": "FP32", "data": data}
    return {"inputs": [tensor], **more}


DOUBLING_GOLDEN: list[dict[str, Any]] = [
    {
        "request": doubling_request(),
        "response": {
            "outputs": [
                {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [2.0, 4.0, 6.0]},
                {"name": "total", "shape": [1], "datatype": "FP32", "data": [12.0]},
            ]
        },
        "tolerance": 0.001,
    }
]


def slow_request(turns: int) -> dict[str, Any]:
    return {"inputs": [{"name": "turns", "shape": [], "datatype": "INT64", "data": [turns]}]}


# --------------------------------------------------------------------------------------------------------------------
# Model packages
# --------------------------------------------------------------------------------------------------------------------
@dataclass
class Signer:
    """Makes signed model packages below ``root``."""

    root: Path
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public_key(self) -> Path:
        path = self.root / "signing.pub"
        path.write_bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return path

    def package(
        self,
        name: str,
        version: str,
        make_model: Callable[[Path], Path],
        golden: list[dict[str, Any]] | None = None,
        **manifest: Any,
    ) -> dict[str, str]:
        """Build a package; returns its entry for ``models`` of the configuration."""
        path = self.root / "models" / name / version
        path.mkdir(parents=True)
        make_model(path / "model.onnx")
        if golden is not None:
            (path / "golden.json").write_text(json.dumps({"requests": golden}))
            manifest.setdefault("golden", "golden.json")
        self.seal(path, {"schema": 1, "name": name, "version": version, **manifest})
        return {"name": name, "version": version, "path": str(path)}

    def seal(self, path: Path, manifest: dict[str, Any]) -> None:
        """Write the manifest of all files in ``path``, unless it lists them itself, and sign it."""
        if "files" not in manifest:
            manifest["files"] = [
                {
                    "path": item.relative_to(path).as_posix(),
                    "sha256": hashlib.sha256(item.read_bytes()).hexdigest(),
                    "size": item.stat().st_size,
                }
                for item in sorted(path.rglob("*"))
                if item.is_file() and not item.name.startswith("manifest.json")
            ]
        raw = json.dumps(manifest).encode()
        (path / "manifest.json").write_bytes(raw)
        (path / "manifest.json.sig").write_bytes(base64.b64encode(self.key.sign(raw)) + b"\n")


# --------------------------------------------------------------------------------------------------------------------
# Certificates
# --------------------------------------------------------------------------------------------------------------------
@dataclass
class Authority:
    """A certificate authority that issues to files below ``root``."""

    root: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        # Key usage and key identifiers are what Python 3.13 insists on.
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage |= {"key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}
        builder = (
            self._builder(self.subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.path = self.root / f"{self.name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, name: str, usage: x509.ObjectIdentifier) -> tuple[Path, Path]:
        """Certificate and key files for ``name``, valid for 127.0.0.1 too."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        certificate_path = self.root / f"{self.name}-{name}.crt"
        key_path = self.root / f"{self.name}-{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path


SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


# --------------------------------------------------------------------------------------------------------------------
# Server processes
# --------------------------------------------------------------------------------------------------------------------
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ServerProcess:
    """``ai102-server serve`` in a process of its own, with the test in the place of systemd."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        *,
        environ: Mapping[str, str] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.config = config
        directory.mkdir(exist_ok=True)
        self.config_path = directory / "config.yml"
        self.config_path.write_text(yaml.safe_dump(config))
        self.log_path = directory / "log"
        notify = directory / "notify"
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(notify))
        self.messages: list[str] = []
        command = [sys.executable, "-m", "ai102_server", "serve", "--config", str(self.config_path)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(notify), **(environ or {})}
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
        descriptors: tuple[int, ...] = ()
        if listener is not None:
            # What systemd does between fork and exec.
            code = (
                "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
                "os.execv(sys.argv[2], sys.argv[2:])"
            )
            command = [sys.executable, "-c", code, str(listener.fileno()), *command]
            environment["LISTEN_FDS"] = "1"
            descriptors = (listener.fileno(),)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, pass_fds=descriptors, start_new_session=True
            )

    # Lifecycle ---------------------------------------------------------------------------------------------------
    def wait_for(self, message: str, seconds: float = 30) -> None:
        """Wait until the server has notified ``message``."""
        deadline = time.monotonic() + seconds
        while not any(message in line for line in self.messages):
            left = deadline - time.monotonic()
            if left <= 0 or (self.process.poll() is not None and not self._poll_notify(0.1)):
                raise AssertionError(f"no {message!r} within {seconds} s, only {self.messages}; log:\n{self.log}")
            self._poll_notify(min(left, 0.2))

    def _poll_notify(self, seconds: float) -> bool:
        self._notify.settimeout(seconds)
        try:
            self.messages += self._notify.recv(65536).decode().splitlines()
        except TimeoutError:
            return False
        return True

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._notify.close()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Log lines written in full: the server may be in the middle of the next one."""
        return [json.loads(line) for line in self.log.rpartition("\n")[0].splitlines()]

    @property
    def workers(self) -> list[int]:
        """Process ids of the processes that answer."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    @property
    def worker(self) -> int:
        return self.workers[0]

    # Requests ----------------------------------------------------------------------------------------------------
    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        listen = self.config["listen"]
        if "uds" in listen:
            return _UnixConnection(listen["uds"])
        if context is not None:
            return http.client.HTTPSConnection("127.0.0.1", listen["port"], timeout=30, context=context)
        return http.client.HTTPConnection("127.0.0.1", listen["port"], timeout=30)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        connection = self.connection(context)
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    content_type = {"Content-Type": "application/json"} if raw is not None else {}
    connection.request(method, path, raw, {**content_type, **(headers or {})})
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())
