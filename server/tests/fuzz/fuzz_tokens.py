# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sends mutated tokens and headers through the gate: each must be refused with 401, and nothing else may happen.

``python tests/fuzz/fuzz_tokens.py 250000 [seed]``
"""

from __future__ import annotations

import base64
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from ai102_server.access import Access
from ai102_server.errors import RequestError

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOISE: Final = ALPHABET + ".=+/ \t\n\r\x00\x7f~!,;\"'\\éß中\ud800\U0001f600"
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 1e308, float("inf"), float("nan"), 10**400, "", "x", "none", "HS256", "admin", "ann",
    [], [[]], {}, {"a": {}}, ["ai102-inference"], "EdDSA", "RS256", "ES256", "\x00", "é", "a" * 3000, [None] * 50,
)  # fmt: skip
HEADER_NAMES: Final = ("alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc", "cty", "", "alg ")
CLAIM_NAMES: Final = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "role", "tenant", "", "realm", "exp ")


def _decode(part: str) -> Any:
    try:
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return None


def _encode(document: Any) -> str:
    text = json.dumps(document, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _noise(random_: random.Random, token: str) -> str:
    """Characters replaced, inserted, removed, repeated, cut off."""
    for _ in range(random_.choice((1, 1, 1, 2, 5, 20))):
        place = random_.randrange(len(token) + 1)
        action = random_.randrange(6)
        if action == 0:
            token = token[:place] + random_.choice(NOISE) + token[place + 1 :]
        elif action == 1:
            token = token[:place] + random_.choice(NOISE) + token[place:]
        elif action == 2:
            token = token[:place] + token[place + 1 :]
        elif action == 3:
            token = token[:place]
        elif action == 4:
            token = token[:place] + token[place : place + 30] + token[place:]
        elif place < len(token):
            bit = chr(ord(token[place]) ^ 1 << random_.randrange(7))
            token = token[:place] + bit + token[place + 1 :]
    return token


def _structure(random_: random.Random, token: str) -> str:
    """Another header or other claims with the signature of the old ones."""
    parts = token.split(".")
    which = random_.randrange(2)
    document = _decode(parts[which])
    names = (HEADER_NAMES, CLAIM_NAMES)[which]
    if random_.random() < 0.1:
        document = random_.choice(VALUES)
    elif isinstance(document, dict):
        for _ in range(random_.choice((1, 1, 2, 4))):
            name = random_.choice(names)
            if random_.random() < 0.3:
                document.pop(name, None)
            else:
                document[name] = random_.choice(VALUES)
    if random_.random() < 0.02:
        depth = random_.choice((50, 900, 1900))
        parts[which] = base64.urlsafe_b64encode(b"[" * depth + b"]" * depth).rstrip(b"=").decode()
    else:
        parts[which] = _encode(document)
    if random_.random() < 0.2:
        parts[2] = random_.choice(("", "A", "AA", "A" * 86, "A" * 342, parts[2][::-1], parts[0]))
    return ".".join(parts)


def _splice(random_: random.Random, tokens: Sequence[str]) -> str:
    """Parts of several tokens."""
    parts = [random_.choice(random_.choice(tokens).split(".")) for _ in range(random_.choice((1, 2, 3, 3, 3, 4, 5)))]
    return ".".join(parts)


def cases(tokens: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """``count`` values of an ``Authorization`` header, none of which holds one of the valid ``tokens``."""
    random_ = random.Random(seed)
    valid = set(tokens)
    made = 0
    while made < count:
        token = random_.choice(tokens)
        choice = random_.random()
        if choice < 0.45:
            token = _noise(random_, token)
        elif choice < 0.8:
            token = _structure(random_, token)
        elif choice < 0.9:
            token = _splice(random_, tokens)
        elif choice < 0.95:
            token = "".join(random_.choice(NOISE) for _ in range(random_.randrange(1, 200)))
        else:
            token = "x" * random_.choice((8190, 8193, 100_000)) + random_.choice((".a.a", ".", ""))
        header = f"Bearer {token}"
        if random_.random() < 0.05:
            header = random_.choice(("bearer", "Basic", "", "Bearer\t", "Digest", "Bearer Bearer")) + " " + token
        # Spaces around a valid token change nothing about it.
        if not (header.split(" ")[0].lower() == "bearer" and header.partition(" ")[2].strip(" ") in valid):
            made += 1
            yield header


def run(gate: Access, tokens: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """Send the cases; returns those that did not end in 401, each with what happened instead."""
    found: list[tuple[str, str]] = []
    for header in cases(tokens, count, seed):
        try:
            gate.enter({"HTTP_AUTHORIZATION": header, "REMOTE_ADDR": "192.0.2.1"}, "infer", None).close()
        except RequestError as error:
            if error.status != 401:
                found.append((header, str(error.status)))
        except BaseException as error:  # noqa: BLE001  # anything at all is a finding
            found.append((header, repr(error)))
        else:
            found.append((header, "was let in"))
    return found


def main() -> int:
    """Run as a script."""
    from access_kit import Outsider, Site, rsa_key

    # Refusals are logged, and nobody reads so many.
    logging.getLogger("ai102_server").addHandler(logging.NullHandler())
    logging.getLogger("ai102_server").propagate = False
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        outsider, other = Outsider(site.path), Outsider(site.path, rsa_key())
        other.file = site.path / "other.json"
        other.publish()
        outsider.publish()
        issuers = [outsider.document(), other.document(name="two", issuer="https://two.example")]
        gate = site.load(issuers=issuers, audit={"denied_per_second": 1})
        tokens = [site.token(gate), site.token(gate, "ann"), outsider.token(), other.token(iss="https://two.example")]
        for token in tokens:
            gate.verify(token)
        started = time.monotonic()
        found = run(gate, tokens, count, seed)
        seconds = time.monotonic() - started
        site.close()
    for header, what in found[:20]:
        print(f"{what}: {header[:300]!r}")
    print(f"{count} cases (seed {seed}), {len(found)} findings, {seconds:.1f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
