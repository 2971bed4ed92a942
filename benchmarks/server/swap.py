#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swaps a model ten times while clients ask it: no request may fail, and no answer may mix versions.

    python benchmarks/server/swap.py [--swaps 10] [--clients 16]

The versions of the model answer with numbers that tell which version they are from: each request has many rows, and
all rows of an answer must be of the version that the answer names. All packages are signed and encrypted. Between good
swaps a tampered package, one that is signed with another key and one that is encrypted with another key are offered:
they must be refused while the old version serves. Ends with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import ours
import wire
from environments import CACHE, HERE, Failure, say
from servers import SERVERS, running
from wire import Samples

ROWS = 64
MODEL = "versioned"
STORE = CACHE / "swap-store"
FAULTS = {3: "tampered", 5: "wrongly signed", 7: "wrongly keyed"}
"""Before which swap a package with which fault is offered."""


def make_model(path: Path, version: int) -> None:
    """``y = x + version``, after some work, so that requests are in flight while versions change."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = 256
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["g"]),
            helper.make_node("Add", ["g", "v"], ["y"]),
        ],
        "versioned",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [
            numpy_helper.from_array(np.eye(size, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array(version, np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


class Packer:
    """Packages below the store, encrypted and signed as people do it, with two pairs of keys: ours and another."""

    def __init__(self) -> None:
        self._keys = CACHE / "swap-keys"
        shutil.rmtree(self._keys, ignore_errors=True)
        self._keys.mkdir(parents=True)
        for owner in ("ours", "other"):
            ours.cli("package", "keys", "--signing", str(self._key(owner, "sign")),
                     "--encryption", str(self._key(owner, "encrypt")))  # fmt: skip

    def _key(self, owner: str, purpose: str) -> Path:
        return self._keys / f"{owner}_{purpose}"

    def settings(self) -> dict[str, Any]:
        """What the server needs to know of the keys."""
        public = self._key("ours", "sign").with_suffix(".pub")
        return {"public_keys": [str(public)], "decryption_keys": [{"file": str(self._key("ours", "encrypt"))}]}

    def package(self, version: int, *, fault: str | None = None) -> Path:
        """Make the package of a version; moved to its place in one step. ``fault`` is one of ``FAULTS``."""
        scratch = CACHE / "swap-new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        make_model(scratch / "model.onnx", version)
        zeros = {"name": "x", "shape": [1, 256], "datatype": "FP32", "data": [0.0] * 256}
        answer = {"name": "y", "shape": [1, 256], "datatype": "FP32", "data": [float(version)] * 256}
        golden = {"requests": [{"request": {"inputs": [zeros]}, "response": {"outputs": [answer]}}]}
        (scratch / "golden.json").write_text(json.dumps(golden))
        plain, sealed = scratch / "plain", scratch / "sealed"
        ours.cli("package", "new", "--model", str(scratch / "model.onnx"), "--golden", str(scratch / "golden.json"),
                 "--name", MODEL, "--version", str(version), "--output", str(plain))  # fmt: skip
        signer = "other" if fault == "wrongly signed" else "ours"
        locker = "other" if fault == "wrongly keyed" else "ours"
        ours.cli("package", "encrypt", str(plain), "--output", str(sealed), "--key", str(self._key(locker, "encrypt")),
                 "--signing-key", str(self._key(signer, "sign")))  # fmt: skip
        if fault == "tampered":
            model = sealed / "model.onnx"
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
        target = STORE / MODEL / str(version)
        target.parent.mkdir(parents=True, exist_ok=True)
        sealed.rename(target)
        return target


class Clients:
    """Threads that ask, and count what they see."""

    def __init__(self, port: int, headers: dict[str, str], count: int) -> None:
        self.port, self.headers = port, headers
        self.seen: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.mixed = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, index: int) -> None:
        # Half of the clients send many rows, the others one: those run together in batches.
        rows = ROWS if index % 2 else 1
        request = wire.v2_binary(MODEL, {"x": np.zeros((rows, 256), np.float32)})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request("POST", request.path, request.body, {**request.headers, **self.headers})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self.failures[type(error).__name__] += 1
                continue
            if response.status != http.client.OK:
                with self._lock:
                    self.failures[f"{response.status}: {body[:120]!r}"] += 1
                continue
            length = int(response.headers[wire.LENGTH])
            version = json.loads(body[:length])["model_version"]
            values = set(np.unique(np.frombuffer(body[length:], np.float32)).tolist())
            with self._lock:
                self.seen[version] += 1
                self.mixed += values != {float(version)}
        connection.close()


def configure(packer: Packer, port: int) -> dict[str, Any]:
    """Our configuration, with the store instead of a list of models."""
    samples = Samples(MODEL, STORE, [{"x": np.zeros((1, 256), np.float32)}], [])
    document = ours.configuration(samples, port, on=True, package_it=False)
    document["models"] = []
    document["store"] = {"path": str(STORE), "poll_seconds": 0, **packer.settings()}
    return document


def latest(port: int, headers: dict[str, str]) -> str:
    """The version that answers."""
    request = wire.v2_binary(MODEL, {"x": np.zeros((1, 256), np.float32)})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", request.path, request.body, {**request.headers, **headers})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise Failure(f"{response.status}: {body[:200]!r}")
    return str(json.loads(body[: int(response.headers[wire.LENGTH])])["model_version"])


def swap(port: int, headers: dict[str, str], version: int, seconds: float = 20) -> float | None:
    """Have the model loaded again, wait until ``version`` answers. Returns the seconds that took; None: it did not."""
    began = time.monotonic()
    status, body = ours.post(port, f"/v2/repository/models/{MODEL}/load", {}, headers)
    if status not in {200, 404, 405}:
        say(f"  load answers {status}: {body[:200]!r}")
    while time.monotonic() - began < seconds:
        if latest(port, headers) == str(version):
            return time.monotonic() - began
        time.sleep(0.05)
    return None


def main() -> int:
    """Swap under load, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    (server,) = (item for item in SERVERS if item.name == "ours")
    shutil.rmtree(STORE, ignore_errors=True)
    packer = Packer()
    packer.package(1)
    samples = Samples(MODEL, STORE, [{"x": np.zeros((1, 256), np.float32)}], [np.ones((1, 256), np.float32)])
    found: dict[str, Any] = {"swaps": [], "refused": {}}
    try:
        with (
            running(server, samples, lambda port: ours.write(configure(packer, port))) as one,
            Clients(one.port, one.headers, arguments.clients) as clients,
        ):
            version = 1
            for number in range(arguments.swaps):
                if fault := FAULTS.get(number):
                    version += 1
                    before = latest(one.port, one.headers)
                    bad = packer.package(version, fault=fault)
                    taken = swap(one.port, one.headers, version, seconds=3)
                    found["refused"][fault] = taken is None and latest(one.port, one.headers) == before
                    shutil.rmtree(bad)
                version += 1
                packer.package(version)
                taken = swap(one.port, one.headers, version)
                found["swaps"].append(taken)
                say(f"swap {number + 1}: version {version}, {'not served' if taken is None else f'{taken:.2f} s'}")
                time.sleep(0.5)
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    found |= {"answers": dict(clients.seen), "failures": dict(clients.failures), "mixed": clients.mixed}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "swap.json").write_text(json.dumps(found, indent=1) + "\n")
    verdicts = [
        (f"{len(found['swaps'])} swaps, all served", None not in found["swaps"]),
        (f"{sum(clients.failures.values())} of {sum(clients.seen.values())} requests failed", not clients.failures),
        (f"{clients.mixed} answers of mixed versions", clients.mixed == 0),
        *((f"{fault} package refused, the old version served", met) for fault, met in found["refused"].items()),
    ]
    for text, met in verdicts:
        print(f"{'met   ' if met else 'MISSED'}  {text}")
    for text, count in clients.failures.most_common(5):
        print(f"        {count} × {text}")
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
