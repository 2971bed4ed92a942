# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A model's pipeline: its inputs and outputs as clients see them, and what is done on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config.reader import MISSING, Section, kind_of, to_integer, to_text
from ai102_server.errors import ModelError, RequestError
from ai102_server.pipeline.content import read_bytes_steps
from ai102_server.pipeline.declaration import ReadFile, Refused, Step, read_steps
from ai102_server.pipeline.image import read_image_steps
from ai102_server.pipeline.outputs import Output, read_output
from ai102_server.pipeline.text import read_text_steps
from ai102_server.repository import ModelPackage

__all__ = ["Pipeline", "load", "read_pipeline"]

MAX_ITEMS: Final = 64
_BYTES: Final = DATATYPES["BYTES"]

Convert = Callable[[Sequence[Any]], dict[str, Array]]


@dataclass(frozen=True)
class _Input:
    """An input that is converted: its elements become the model's inputs ``makes``."""

    spec: TensorSpec
    makes: tuple[str, ...]
    max_items: int
    convert: Convert


class Pipeline:
    """What stands between clients and a model. It has no state: any number of threads may use it.

    ``inputs`` and ``outputs`` are what clients send and get; those that the declaration does not mention are the
    model's own.
    """

    def __init__(
        self,
        converted: Iterable[_Input],
        finished: Sequence[Output] | None,
        model_inputs: Iterable[TensorSpec],
        model_outputs: Iterable[TensorSpec],
    ) -> None:
        self._inputs: Final = tuple(converted)
        self._outputs: Final = finished
        made = {name for item in self._inputs for name in item.makes}
        self._plain: Final = tuple(spec.name for spec in model_inputs if spec.name not in made)
        self.inputs: Final[dict[str, TensorSpec]] = {item.spec.name: item.spec for item in self._inputs}
        self.inputs.update({spec.name: spec for spec in model_inputs if spec.name not in made})
        specs = model_outputs if finished is None else [spec for output in finished for spec in output.specs]
        self.outputs: Final[dict[str, TensorSpec]] = {spec.name: spec for spec in specs}
        self._sources: Final = (
            {spec.name: spec.name for spec in specs}
            if finished is None
            else {spec.name: output.source for output in finished for spec in output.specs}
        )

    def sources(self, names: Iterable[str]) -> tuple[str, ...]:
        """The model's outputs that these outputs of the client are made of, each once."""
        return tuple(dict.fromkeys(self._sources[name] for name in names))

    def before(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's inputs.

        Args:
            inputs: What the client sent, checked against ``inputs``: BYTES of shape [n], as ``bytes`` objects for
                images and files and as text for texts; others as the model has them.

        Raises:
            RequestError: 400, an element cannot be converted, or there are too many.

        """
        result = {name: inputs[name] for name in self._plain}
        count: int | None = None
        for item in self._inputs:
            name = item.spec.name
            elements = inputs[name].tolist()
            if not elements:
                raise RequestError(400, f"input '{name}' is empty")
            if len(elements) > item.max_items:
                raise RequestError(
                    400, f"input '{name}' has {len(elements)} elements; at most {item.max_items} are taken at a time"
                )
            if count not in (None, len(elements)):
                raise RequestError(400, f"input '{name}' has {len(elements)} elements, another one has {count}")
            count = len(elements)
            try:
                result |= item.convert(elements)
            except Refused as refusal:
                raise RequestError(400, f"input '{name}': {refusal}") from None
        return result

    def after(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The client's outputs, of those of the model that are given.

        Args:
            outputs: Arrays as the model computed them, by name; those that are not there are left out of the result.

        Raises:
            ModelError: the model answered other than it was declared.

        """
        if self._outputs is None:
            return dict(outputs)
        result: dict[str, Array] = {}
        for output in self._outputs:
            if output.source in outputs:
                result |= output(outputs[output.source])
        return result


def load(package: ModelPackage) -> Pipeline | None:
    """The pipeline that a package declares; None when it declares none. Raises ``ModelError`` with every mistake."""
    declared = package.serving.pipeline
    if declared is None:
        return None
    if package.inputs is None or package.outputs is None:
        raise ModelError(f"{package.where}: a pipeline needs the model's inputs and outputs in the manifest")
    return read_pipeline(declared, package.inputs, package.outputs, package.read_file, package.where)


def read_pipeline(
    declared: Mapping[str, Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    read_file: ReadFile,
    where: str,
) -> Pipeline:
    """Read a declaration for a model with these inputs and outputs.

    ``read_file`` gives the content of a file of the package and raises ``ModelError``; ``where`` names the package in
    messages. Raises ``ModelError`` with every mistake found.
    """
    problems: list[str] = []
    section = Section(dict(declared), "serving.pipeline", problems)
    converted = [_read_input(item, inputs, read_file) for item in _sections(section, "inputs")]
    finished: list[Output] | None = None
    if section.has("outputs"):
        read = [_read_output(item, outputs, read_file) for item in _sections(section, "outputs")]
        finished = [output for output in read if output is not None]
    section.finish()
    if not problems:
        _check_names(section, [item for item in converted if item is not None], finished, inputs)
    if problems:
        raise ModelError("; ".join(f"{where}: {problem}" for problem in problems))
    return Pipeline([item for item in converted if item is not None], finished, inputs, outputs)


def _sections(parent: Section, key: str) -> list[Section]:
    value = parent.raw(key)
    if value is MISSING:
        return []
    if not isinstance(value, list) or (not value and key == "outputs"):
        parent.report(key, f"must be a list with an entry for each of the {key}, not {kind_of(value)}")
        return []
    return [Section(item, parent.at(f"{key}[{index}]"), parent.problems) for index, item in enumerate(value)]


def _read_input(section: Section, specs: Sequence[TensorSpec], read_file: ReadFile) -> _Input | None:
    name = section.require("name", "", to_text, "what clients call it")
    max_items = section.get("max_items", MAX_ITEMS, to_integer(1, 1 << 20))
    target = section.get("input", None, to_text)
    steps = read_steps(section)
    section.finish()
    if not steps:
        if not section.has("steps"):
            section.report("steps", "is missing: begin with decode, tokenize or bytes")
        return None
    kind = steps[0].kind
    if kind == "tokenize":
        text, names = read_text_steps(steps, {spec.name: spec for spec in specs}, read_file)
        if text is None:
            return None
        return _Input(TensorSpec(name, _BYTES, (-1,)), names, max_items, text)
    if kind not in {"decode", "bytes"}:
        section.report("steps", f"must begin with decode, tokenize or bytes, not {kind}")
        return None
    spec = _model_tensor(section, "input", target or name, specs)
    if spec is None:
        return None
    convert: Convert = read_image_steps(steps, spec, section) if kind == "decode" else _bytes(steps, spec, section)
    return _Input(TensorSpec(name, _BYTES, (-1,), binary=True), (spec.name,), max_items, convert)


def _bytes(steps: Sequence[Step], spec: TensorSpec, section: Section) -> Convert:
    return read_bytes_steps(steps, spec, section)


def _read_output(section: Section, specs: Sequence[TensorSpec], read_file: ReadFile) -> Output | None:
    source = section.require("output", "", to_text, "which of the model's outputs it is made of")
    name = section.get("name", source, to_text)
    steps = read_steps(section)
    section.finish()
    spec = _model_tensor(section, "output", source, specs) if source else None
    return None if spec is None else read_output(name, spec, steps, read_file)


def _model_tensor(section: Section, key: str, name: str, specs: Sequence[TensorSpec]) -> TensorSpec | None:
    for spec in specs:
        if spec.name == name:
            return spec
    section.report(key, f"'{name}' is no {key} of the model, which has {', '.join(spec.name for spec in specs)}")
    return None


def _check_names(
    section: Section, converted: Sequence[_Input], finished: Sequence[Output] | None, specs: Sequence[TensorSpec]
) -> None:
    made = [name for item in converted for name in item.makes]
    seen = [item.spec.name for item in converted] + [spec.name for spec in specs if spec.name not in made]
    answered = [spec.name for output in finished or () for spec in output.specs]
    for key, names, what in (("inputs", made, "made"), ("inputs", seen, "sent"), ("outputs", answered, "answered")):
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                section.report(key, f"'{name}' is {what} twice")
