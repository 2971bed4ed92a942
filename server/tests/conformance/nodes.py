# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node tests of the ``onnx`` package through a running server, in JSON and in binary form.

Each case is a model of one node with recorded inputs and answers. A case is asked of ONNX Runtime first, without this
server: what ONNX Runtime cannot load, or answers otherwise than recorded, is counted apart: no server can do better.
What remains must come back from the server as recorded, both ways.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import importlib
import json
import math
import re
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from ai102_server.codec import BF16, DATATYPES, Datatype, from_onnx
from ai102_server.codec.ortvalues import run_with_ort_values
from conformance.server import package, serving

__all__ = ["Case", "Report", "collect", "main", "prepare", "run"]

CHUNK = 250
"""Models of one server process."""


@dataclass
class Case:
    """A test whose answers ONNX Runtime gives as recorded: one set of inputs and outputs for each of its data sets."""

    name: str
    model: bytes
    inputs: dict[str, Datatype]
    outputs: dict[str, Datatype]
    sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


@dataclass
class Report:
    """What ran, and why the rest did not: by reason, names of cases."""

    skipped: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    passed: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: list[str] = field(default_factory=list)
    json_not: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    total: int = 0

    def lines(self) -> Iterable[str]:
        """The report in words."""
        yield f"{self.total} node tests of onnx {onnx.__version__}, ONNX Runtime {ort.__version__}"
        for encoding, count in sorted(self.passed.items()):
            yield f"{count} answered as recorded through the server, {encoding}"
        for reason, names in sorted(self.json_not.items(), key=lambda item: -len(item[1])):
            yield f"{len(names)} in binary form only: {reason}"
        for reason, names in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            yield f"{len(names)} not sent: {reason} (such as {', '.join(names[:3])})"
        yield f"{len(self.failed)} failed"
        yield from self.failed


def collect(pattern: str = "", modules: Sequence[str] = ()) -> list[Any]:
    """The package's cases whose names match; of these modules of ``onnx.backend.test.case.node``, or of all."""
    with warnings.catch_warnings():
        # The reference implementation divides by zero on purpose.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node

        if modules:
            # Modules register their cases when they are imported; all of them together take five seconds.
            for name in modules:
                importlib.import_module(f"{node.__name__}.{name}")
            cases = node._NodeTestCases
        else:
            cases = node.collect_testcases(None)
    wanted = re.compile(pattern)
    return [case for case in {case.name: case for case in cases}.values() if wanted.search(case.name)]


# --------------------------------------------------------------------------------------------------------------------
# What can be sent
# --------------------------------------------------------------------------------------------------------------------
def prepare(cases: Iterable[Any], report: Report) -> list[Case]:
    """The cases that ONNX Runtime itself answers as recorded and V2 can carry; the others go into the report."""
    ready: list[Case] = []
    for case in cases:
        report.total += 1
        try:
            ready.append(_prepare(case))
        except NotForUsError as reason:
            report.skipped[str(reason)].append(case.name)
    return ready


class NotForUsError(Exception):
    """Why a case cannot be sent."""


def _prepare(case: Any) -> Case:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    raw = case.model.SerializeToString()
    try:
        session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - whatever it says, it is the reason
        raise NotForUsError(_of_onnx_runtime(case, str(error))) from None
    inputs, outputs = ({node.name: _datatype(node.type) for node in nodes} for nodes in _nodes(session))
    sets = []
    for recorded in case.data_sets:
        given, expected = ([_array(item) for item in items] for items in recorded)
        names = [node.name for node in session.get_inputs()]
        if len(given) != len(names):
            raise NotForUsError("ONNX Runtime optimises inputs away")
        try:
            feeds = dict(zip(names, given, strict=True))
            run = run_with_ort_values if BF16 in {*inputs.values(), *outputs.values()} else type(session).run
            found = run(session, list(outputs), feeds)
        except Exception as error:  # noqa: BLE001 - as above
            raise NotForUsError(_of_onnx_runtime(case, str(error))) from None
        for one, other in zip(found, expected, strict=True):
            if not _similar(np.asarray(one), other, case.rtol, case.atol):
                raise NotForUsError("ONNX Runtime's answer is not the recorded one (chance, versions, rounding)")
        sets.append((given, expected))
    return Case(case.name, raw, inputs, outputs, sets, case.rtol, case.atol)


def _nodes(session: Any) -> tuple[Any, Any]:
    return session.get_inputs(), session.get_outputs()


def _datatype(onnx_type: str) -> Datatype:
    datatype = from_onnx(onnx_type)
    if datatype is None:
        kind = re.match(r"[a-z]+\((?:tensor\()?[a-z0-9]+|[a-z]+", onnx_type)
        raise NotForUsError(f"V2 has no {(kind[0] if kind else onnx_type).replace('(', ' of ')}")
    return datatype


def _array(item: Any) -> Any:
    if isinstance(item, onnx.TensorProto):
        item = numpy_helper.to_array(item)
    if isinstance(item, (list, tuple, dict)) or item is None:
        raise NotForUsError("a sequence, map or optional value among inputs or outputs")
    array = np.asarray(item)
    return array.astype(object) if array.dtype.kind in "US" else array


def _of_onnx_runtime(case: Any, message: str) -> str:
    if "NOT_IMPLEMENTED" in message:
        return "ONNX Runtime has no kernel for it on the CPU"
    if "opset" in message.lower() or "ONNX Runtime only *guarantees*" in message or "is not a registered" in message:
        return "ONNX Runtime does not know the operator, or its version"
    if any(opset.domain not in {"", "ai.onnx"} for opset in case.model.opset_import):
        return "operators of another domain, which ONNX Runtime does not take"
    return "ONNX Runtime cannot load or run it"


def _similar(found: Any, expected: Any, rtol: float, atol: float) -> bool:
    if found.shape != expected.shape:
        return False
    if found.dtype.kind == "O" or expected.dtype.kind == "O":
        return [str(item) for item in found.reshape(-1)] == [str(item) for item in expected.reshape(-1)]
    if found.dtype != expected.dtype:
        return False
    if expected.dtype.kind in "biu":
        return bool(np.array_equal(found, expected))
    wide = (found.astype(np.float64), expected.astype(np.float64))
    return bool(np.allclose(*wide, rtol=rtol, atol=atol, equal_nan=True))


# --------------------------------------------------------------------------------------------------------------------
# Through the server
# --------------------------------------------------------------------------------------------------------------------
def run(cases: Sequence[Case], report: Report, directory: Path) -> None:
    """Serve the cases' models and ask each of them, both ways."""
    models = [package(directory / "packages", case.name, case.model) for case in cases]
    # Three nodes are larger than the rest; none needs more than this.
    with serving(directory / "server", models, execution={"warmup_runs": 0}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.config["listen"]["port"], timeout=60)
        for case in cases:
            for encoding in ("binary", "JSON"):
                if encoding == "JSON" and BF16 in {*case.inputs.values(), *case.outputs.values()}:
                    report.json_not["BF16, for which the protocol's JSON has no form"].append(case.name)
                    continue
                try:
                    problem = _ask(connection, case, encoding == "binary")
                except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem is None:
                    report.passed[encoding] += 1
                else:
                    report.failed.append(f"{case.name}, {encoding}: {problem}")
        connection.close()


def _ask(connection: http.client.HTTPConnection, case: Case, binary: bool) -> str | None:
    """Ask all data sets of a case. Returns what is wrong, None when nothing is."""
    for given, expected in case.sets:
        items, tail = [], b""
        for (name, datatype), array in zip(case.inputs.items(), given, strict=True):
            item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype.name}
            if binary:
                raw = _to_raw(array, datatype)
                item["parameters"] = {"binary_data_size": len(raw)}
                tail += raw
            else:
                item["data"] = array.reshape(-1).tolist()
            items.append(item)
        document = {"inputs": items, "parameters": {"binary_data_output": binary}}
        head = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
        connection.request("POST", f"/v2/models/{case.name}/infer", head + tail, headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            return f"status {response.status}: {body[:300].decode(errors='replace')}"
        length = response.headers.get("Inference-Header-Content-Length")
        outputs = json.loads(body[: int(length)] if length else body)["outputs"]
        offset = int(length) if length else 0
        for (name, datatype), output, wanted in zip(case.outputs.items(), outputs, expected, strict=True):
            if (output["name"], output["datatype"]) != (name, datatype.name):
                return f"output {output['name']} of {output['datatype']} instead of {name} of {datatype.name}"
            if binary:
                size = output["parameters"]["binary_data_size"]
                found = _of_raw(body[offset : offset + size], datatype)
                offset += size
            else:
                found = _of_json(output["data"], datatype)
            if not _similar(
                found.reshape(output["shape"]), wanted if binary else _in_json(wanted, datatype), case.rtol, case.atol
            ):
                return f"output {name} is not the recorded one"
    return None


def _to_raw(array: Any, datatype: Datatype) -> bytes:
    if datatype.name == "BYTES":
        texts = [str(item).encode() for item in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return bytes(np.ascontiguousarray(array).tobytes())


def _of_raw(raw: bytes, datatype: Datatype) -> Any:
    if datatype.name != "BYTES":
        return np.frombuffer(raw, datatype.dtype)
    texts, offset = [], 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        texts.append(raw[offset + 4 : offset + 4 + length].decode())
        offset += 4 + length
    return np.array(texts, dtype=object)


def _of_json(data: list[Any], datatype: Datatype) -> Any:
    if datatype.kind != "f":
        return np.array(data, datatype.dtype)
    return np.array([math.nan if item is None else item for item in data], datatype.dtype)


def _in_json(recorded: Any, datatype: Datatype) -> Any:
    """A recorded answer as JSON can carry it: NaN and infinities are null."""
    if datatype.kind != "f":
        return recorded
    return np.where(np.isfinite(recorded), recorded, np.array(math.nan, recorded.dtype))


def main() -> int:
    """Run all cases, or those that match, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="regular expression for the names of the cases")
    parser.add_argument("--names", action="store_true", help="print every name that was not sent")
    options = parser.parse_args()
    started = time.monotonic()
    report = Report()
    ort.set_default_logger_severity(4)
    cases = prepare(collect(options.match), report)
    for begin in range(0, len(cases), CHUNK):
        with tempfile.TemporaryDirectory() as name:
            run(cases[begin : begin + CHUNK], report, Path(name))
    print("\n".join(report.lines()))
    if options.names:
        for reason, names in report.skipped.items():
            print(f"{reason}: {' '.join(names)}")
    print(f"{time.monotonic() - started:.0f} s; {len(DATATYPES)} datatypes")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
