# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Opens damaged model packages: what nobody signed is refused, and signed nonsense is refused or harmless.

``python tests/fuzz/fuzz_packages.py 50000 [seed]``
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ai102_server.config.store import Store
from ai102_server.errors import ModelError
from ai102_server.pipeline import load
from ai102_server.repository import KeyRing, open_package
from ai102_server.repository.encryption import SCHEME, associated_data, encrypt, key_id
from ai102_server.repository.store import survey
from test_encryption import external_model
from test_pipeline import tokenizer_file
from toolkit import DOUBLING_GOLDEN

KEY: Final = bytes(range(32))
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2, 1 << 40, 1 << 70, 0.5, -0.0, [], [[]], [None], ["a"], {}, {"a": {}}, [1, 2, 3]),
    *("", "x", ".", "..", "/", "../x", "a\x00b", "\n", "é", "FP32", "BYTES", "all"),
    *("model.onnx", "manifest.json", "tokenizer.json", "labels.txt"),
)
STEPS: Final = (
    *("decode", "resize", "crop", "pad", "normalise", "layout", "tokenize", "bytes", "none"),
    *("softmax", "sigmoid", "argmax", "threshold", "labels", "top"),
)
OPTIONS: Final = (
    *("formats", "channels", "width", "height", "shorter", "max_width", "filter", "antialias", "value", "mean", "std"),
    *("divide", "file", "max_length", "inputs", "outputs", "head", "tail", "axis", "k", "labels", "threshold"),
    *("padding", "alpha"),
)


class Site:
    """A model package in memory, and a directory where damaged copies of it are put."""

    def __init__(self, root: Path) -> None:
        self.path = root / "m" / "1"
        self.path.mkdir(parents=True)
        self.key = Ed25519PrivateKey.generate()
        external_model(self.path / "model.onnx")
        self.files = {path.name: path.read_bytes() for path in self.path.iterdir()}
        self.files["golden.json"] = json.dumps({"requests": DOUBLING_GOLDEN}).encode()
        self.files["labels.txt"] = b"a\nb\nc"
        self.files["tokenizer.json"] = tokenizer_file()
        image = [{"decode": {}}, {"resize": {"width": 4, "height": 4}}, {"layout": "NCHW"}]
        text = [{"tokenize": {"max_length": 8, "inputs": {"ids": "ids"}}}]
        self.manifest: dict[str, Any] = {
            "schema": 1,
            "name": "m",
            "version": "1",
            "golden": "golden.json",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 3, 4, 4]},
                {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
            ],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
            "serving": {
                "batching": {"enabled": True, "max_size": 8, "preferred_sizes": [2, 4]},
                "padding": {"ids": 0},
                "tags": ["a"],
                "pipeline": {
                    "inputs": [
                        {"name": "image", "input": "x", "steps": image},
                        {"name": "text", "steps": text},
                    ],
                    "outputs": [{"output": "y", "steps": ["softmax", {"top": {"labels": "labels.txt"}}]}],
                },
            },
        }

    def put(self, files: dict[str, bytes], manifest: bytes, signature: bytes | None = None) -> None:
        """Write a package; without ``signature`` it is signed."""
        for path in self.path.iterdir():
            if path.name not in files:
                path.unlink()
        for name, content in files.items():
            (self.path / name).write_bytes(content)
        (self.path / "manifest.json").write_bytes(manifest)
        signature = base64.b64encode(self.key.sign(manifest)) if signature is None else signature
        (self.path / "manifest.json.sig").write_bytes(signature)

    def describe(self, files: dict[str, bytes], sealed: dict[str, Any]) -> dict[str, Any]:
        """A manifest of ``files``; ``sealed`` are the descriptions of encrypted ones."""
        entries = [
            {"path": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} | sealed.get(name, {})
            for name, content in files.items()
        ]
        return {**copy.deepcopy(self.manifest), "files": entries}

    def use(self) -> None:
        """Do all that a server does with a package before ONNX Runtime gets it. Raises ``ModelError``."""
        survey(Store(path=self.path.parents[1]))
        package = open_package(self.path, "m", "1", [self.key.public_key()], KeyRing([KEY]))
        for name in package.files:
            package.read_file(name)
        package.read_golden()
        load(package)
        model = package.open_model()
        package.external_data(model if isinstance(model, bytes) else model.read_bytes())


def noise(random_: random.Random, content: bytes) -> bytes:
    """Damaged bytes, never the same as before."""
    damaged = bytearray(content)
    while bytes(damaged) == content:
        for _ in range(random_.choice((1, 1, 2, 8))):
            place = random_.randrange(len(damaged) + 1)
            action = random_.randrange(4)
            if action == 0 and damaged:
                damaged[place % len(damaged)] ^= 1 << random_.randrange(8)
            elif action == 1:
                del damaged[place : place + random_.choice((1, 2, 16, 4096))]
            elif action == 2:
                damaged[place:place] = random_.randbytes(random_.choice((1, 2, 16)))
            else:
                del damaged[place:]
    return bytes(damaged)


def bend(random_: random.Random, document: Any) -> None:
    """Change something somewhere in a JSON document."""
    places: list[tuple[Any, Any]] = []

    def visit(item: Any) -> None:
        for key, inner in list(item.items() if isinstance(item, dict) else enumerate(item)):
            places.append((item, key))
            if isinstance(inner, (dict, list)):
                visit(inner)

    visit(document)
    for _ in range(random_.choice((1, 1, 2, 4))):
        item, key = random_.choice(places)
        action = random_.randrange(5)
        try:
            if action == 0:
                del item[key]
            elif action == 1:
                other, name = random_.choice(places)
                item[key] = copy.deepcopy(other[name])
            elif action == 2 and isinstance(item, dict):
                item[random_.choice((*OPTIONS, *STEPS))] = random_.choice(VALUES)
            elif action == 3 and isinstance(item, list):
                item.insert(key, {random_.choice(STEPS): {random_.choice(OPTIONS): random_.choice(VALUES)}})
            else:
                item[key] = random_.choice(VALUES)
        except (IndexError, KeyError):
            continue


def case(random_: random.Random, site: Site) -> bool:
    """Put one damaged package. Returns whether it must be refused."""
    kind = random_.randrange(4)
    files = dict(site.files)
    sealed: dict[str, Any] = {}
    if random_.random() < 0.5:
        for name in random_.sample(sorted(files), random_.randint(1, len(files))):
            plain = files[name]
            description = {"scheme": SCHEME, "key": key_id(KEY), "segment": 4096, "size": len(plain)}
            sealed[name] = {"encryption": {**description, "sha256": hashlib.sha256(plain).hexdigest()}}
            files[name] = encrypt(plain, KEY, associated_data("m", "1", name), 4096)
    name = random_.choice(sorted(files))
    raw = json.dumps(site.describe(files, sealed)).encode()
    if kind == 0:
        # Somebody who cannot sign.
        target = random_.choice(("manifest", "signature", "file"))
        if target == "file":
            files[name] = noise(random_, files[name])
            site.put(files, raw)
        elif target == "manifest":
            site.put(files, noise(random_, raw), base64.b64encode(site.key.sign(raw)))
        else:
            site.put(files, raw, noise(random_, base64.b64encode(site.key.sign(raw))).strip() + b"!")
        return True
    if kind == 1 and sealed:
        # Somebody who can sign, but has not the encryption key.
        name = random_.choice(sorted(sealed))
        files[name] = noise(random_, files[name])
        site.put(files, json.dumps(site.describe(files, sealed)).encode())
        return True
    if kind == 2:
        files[name] = noise(random_, files[name]) if name not in sealed else files[name]
        site.put(files, json.dumps(site.describe(files, sealed)).encode())
        return False
    manifest = site.describe(files, sealed)
    bend(random_, manifest)
    try:
        site.put(files, json.dumps(manifest).encode())
    except UnicodeEncodeError:
        return False
    return False


def run(count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` packages; returns how many were taken and refused. Raises what must never be raised."""
    random_ = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(Path(scratch))
        site.put(site.files, json.dumps(site.describe(site.files, {})).encode())
        site.use()
        for number in range(count):
            refuse = case(random_, site)
            try:
                site.use()
            except ModelError:
                found["refused"] += 1
                continue
            except BaseException:
                print(f"case {number} of seed {seed}: {(site.path / 'manifest.json').read_bytes()!r}", file=sys.stderr)
                raise
            if refuse:
                raise AssertionError(f"case {number} of seed {seed} was taken, but must be refused")
            found["taken"] += 1
    return found


def main() -> None:
    """Run from the command line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    started = time.perf_counter()
    found = run(count, seed)
    print(f"{count} packages in {time.perf_counter() - started:.0f} s, seed {seed}: {dict(found)}")


if __name__ == "__main__":
    main()
