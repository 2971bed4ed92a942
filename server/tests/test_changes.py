# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Models that come and go while requests are answered: real processes, several workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ai102_server.config import ModelRef, parse_config
from ai102_server.service import Service
from ai102_server.serving.control import Coordinator, Failures
from test_serving import INFER, wait_until
from toolkit import Answer, ServerProcess, Signer, doubling_model, doubling_request

Start = Callable[..., ServerProcess]


def golden(factor: float) -> list[dict[str, Any]]:
    outputs = [
        {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [factor, 2 * factor, 3 * factor]},
        {"name": "total", "shape": [1], "datatype": "FP32", "data": [6 * factor]},
    ]
    return [{"request": doubling_request(), "response": {"outputs": outputs}}]


class Shop:
    """A store, a server that watches it, and a factory of versions: version n multiplies by n."""

    def __init__(self, directory: Path, start: Start) -> None:
        self.signer = Signer(directory / "made")
        self.store = directory / "store"
        (self.store / "doubling").mkdir(parents=True)
        self.add(1)
        self.config = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "workers": 2,
            "store": {
                "path": str(self.store),
                "poll_seconds": 0.1,
                "state": str(directory / "state"),
                "public_keys": [str(self.signer.public_key)],
            },
        }
        self.server: ServerProcess = start(self.config)

    def make(self, number: int) -> Path:
        entry = self.signer.package(
            "doubling", str(number), lambda path: doubling_model(path, float(number)), golden(number)
        )
        return Path(entry["path"])

    def add(self, number: int, spoil: Callable[[Path], object] | None = None) -> None:
        """Put a version into the store, as a delivery does: first beside its place, then at once."""
        coming = self.store / f".{number}"
        shutil.copytree(self.make(number), coming)
        if spoil is not None:
            spoil(coming)
        coming.rename(self.store / "doubling" / str(number))

    def ask(self) -> Answer:
        return self.server.request("POST", INFER, doubling_request())

    def served(self) -> set[str]:
        """Versions that answer, over many connections and so all workers."""
        return {self.ask().json["model_version"] for _ in range(16)}

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.served() == {str(number)})

    def post(self, path: str) -> Answer:
        return self.server.request("POST", f"/v2/repository/models/{path}", {})

    @contextmanager
    def load(self) -> Iterator[list[Answer]]:
        """Requests all the time; each answer is checked to be of one version."""
        answers: list[Answer] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append(self.ask())

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        yield answers
        stop.set()
        for thread in threads:
            thread.join(10)
        assert len(answers) > 50
        assert {answer.status for answer in answers} == {200}
        for answer in answers:
            factor = float(answer.json["model_version"])
            assert answer.json["outputs"][0]["data"] == [factor, 2 * factor, 3 * factor]


@pytest.fixture
def shop(tmp_path: Path, start: Start) -> Shop:
    return Shop(tmp_path, start)


def test_new_versions_roll_back_and_forward_without_a_failed_request(shop: Shop) -> None:
    with shop.load():
        for number in (2, 3):
            shop.add(number)
            shop.wait_for(number)
        assert shop.post("doubling/rollback").status == 200
        assert shop.served() == {"2"}, "every worker has changed when the answer comes"
        assert shop.post("doubling/rollback").status == 200
        assert shop.served() == {"1"}
        assert shop.post("doubling/load").status == 200
        assert shop.served() == {"3"}
    assert shop.post("doubling/rollback").status == 200
    with pytest.raises(AssertionError):
        wait_until(lambda: shop.served() != {"2"}, 0.5)


def test_rollback_survives_a_restart(tmp_path: Path, start: Start) -> None:
    shop = Shop(tmp_path, start)
    shop.add(2)
    shop.wait_for(2)
    assert shop.post("doubling/rollback").status == 200
    shop.server.terminate()
    shop.server.wait()
    shop.server = start(shop.config)
    assert shop.served() == {"1"}


def test_worker_that_is_replaced_serves_what_the_others_serve(shop: Shop) -> None:
    shop.add(2)
    shop.wait_for(2)
    os.kill(shop.server.worker, signal.SIGKILL)
    wait_until(lambda: sum(record["message"] == "serving" for record in shop.server.records) == 3)
    assert shop.served() == {"2"}


def test_worker_that_is_replaced_while_models_change_serves_what_the_others_serve(shop: Shop) -> None:
    os.kill(shop.server.workers[0], signal.SIGKILL)
    wait_until(lambda: len(shop.server.workers) == 2)  # the new one loads version 1
    shop.add(2)
    wait_until(lambda: sum(record["message"] == "serving" for record in shop.server.records) == 3)
    shop.wait_for(2)
    assert shop.post("doubling/rollback").status == 200
    assert shop.served() == {"1"}


def _tamper(package: Path) -> None:
    model = package / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)


def _wrong_golden(package: Path) -> None:
    document = json.loads((package / "golden.json").read_text())
    document["requests"][0]["response"]["outputs"][0]["data"][0] += 1
    (package / "golden.json").write_text(json.dumps(document))


def _unsigned(package: Path) -> None:
    (package / "manifest.json.sig").write_text("AAAA")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_tamper, "it is damaged"), (_wrong_golden, "it is damaged"), (_unsigned, "signature of manifest.json is wrong")],
)
def test_what_is_not_in_order_is_refused_and_the_old_one_serves(
    shop: Shop, spoil: Callable[[Path], object], reason: str
) -> None:
    with shop.load():
        shop.add(2, spoil)
        wait_until(lambda: any("could not be loaded" in record["message"] for record in shop.server.records))
        assert shop.served() == {"1"}
    failures = [record for record in shop.server.records if record["message"] == "model not ready"]
    assert reason in failures[0]["reason"]
    before = len(failures)
    time.sleep(0.5)
    again = [record for record in shop.server.records if record["message"] == "model not ready"]
    assert len(again) == before, "what failed is not tried again until it changes"
    answer = shop.post("doubling/load")
    assert answer.status == 422
    assert reason in answer.json["error"]
    assert shop.served() == {"1"}
    # The next good one is served.
    shop.add(3)
    shop.wait_for(3)


def test_unload_and_load(shop: Shop) -> None:
    assert shop.post("doubling/unload").status == 200
    assert {shop.ask().status for _ in range(16)} == {404}
    assert shop.server.request("GET", "/v2/health/ready").status == 200
    assert shop.post("doubling/unload").status == 404
    shop.add(2)
    time.sleep(0.3)
    assert shop.ask().status == 404, "what was unloaded by hand stays so"
    assert shop.post("doubling/load").status == 200
    assert shop.served() == {"2"}
    assert shop.post("nothing/load").status == 404
    assert shop.post("nothing/rollback").status == 409


class FakeMember:
    """A process that cannot load version 2."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.serves: list[str] = []

    def prepare(self, refs: Sequence[ModelRef]) -> Callable[[], Failures]:
        self.asked.append(" ".join(ref.version for ref in refs))
        return lambda: {(ref.name, ref.version): "broken" for ref in refs if ref.version == "2"}

    def activate(self, refs: Sequence[ModelRef]) -> Callable[[], None]:
        self.serves = [ref.version for ref in refs]
        return lambda: None


@dataclass
class Package:
    name: str
    version: str
    stamp: str = ""
    path: Path = Path()


def test_what_failed_is_not_tried_again_until_it_changes() -> None:
    member = FakeMember()
    wanted = [Package("m", "1")]
    coordinator = Coordinator([ModelRef("m", "1", Path())], lambda: [member], lambda: wanted)
    coordinator.poll()
    assert member.asked == [], "nothing has changed"
    wanted[:] = [Package("m", "2")]
    for _ in range(3):
        coordinator.poll()
    assert member.asked == ["2"]
    assert member.serves == ["1"], "the old one stands in"
    wanted[:] = [Package("m", "2", stamp="mended")]
    coordinator.poll()
    assert member.asked == ["2", "2"]
    wanted[:] = [Package("m", "3")]
    coordinator.poll()
    assert member.serves == ["3"]
    wanted.clear()
    coordinator.poll()
    assert member.serves == []


def test_a_new_member_is_brought_to_what_the_others_serve() -> None:
    member = FakeMember()
    active = [ModelRef("m", "1", Path())]
    coordinator = Coordinator(active, list, list)
    coordinator.bring(member, active)
    assert member.asked == [], "it serves that already"
    coordinator.bring(member, [ModelRef("m", "0", Path())])
    assert member.serves == ["1"]


def test_tags_of_what_is_not_served_come_from_the_store(tmp_path: Path) -> None:
    signer = Signer(tmp_path / "made")
    entry = signer.package("secret", "1", doubling_model, golden(2), serving={"tags": ["tenant:a"]})
    service = Service(parse_config({"listen": {"port": 1}, "store": {"path": str(Path(entry["path"]).parents[1])}}))
    assert service.tags_in_store("secret") == {"tenant:a"}
    assert service.tags_in_store("nothing") == frozenset()
    service.close()


def test_events_of_access_control_are_counted() -> None:
    service = Service(parse_config({"listen": {"port": 1}, "models": []}))
    for event in ("token.issued", "token.issued", "token.refused", "something.else"):
        service.access.audit.event(event, "success")
    text = service.telemetry.expose().decode()
    assert 'ai102_access_events_total{event="token.issued"} 2.0' in text
    assert 'ai102_access_events_total{event="token.refused"} 1.0' in text
    assert "something" not in text
    service.close()
