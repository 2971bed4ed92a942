# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Text to token numbers, by the package ``tokenizers`` and a file of the model package: no network, no code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ai102_server.codec import TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config.reader import Section, kind_of, to_choice, to_flag, to_integer, to_text
from ai102_server.errors import ModelError
from ai102_server.pipeline.declaration import ReadFile, Refused, Step

# The library would start threads of its own, in every worker and as many as there are processors.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer

__all__ = ["TextInput", "read_text_steps"]

_PARTS: Final = {"ids": "ids", "mask": "attention_mask", "types": "type_ids"}
_MAX_LENGTH: Final = 1 << 20
_MAX_CHARACTERS: Final = 100_000
_NUMBERS: Final = {"INT64", "INT32"}


@dataclass(frozen=True)
class TextInput:
    """Texts to the model's inputs of shape [n, length]; ``inputs`` maps ids, mask and types to them."""

    inputs: Mapping[str, TensorSpec]
    encode: Callable[..., list[Any]]
    special_tokens: bool
    max_characters: int

    def __call__(self, texts: Sequence[str]) -> dict[str, Array]:
        """The model's inputs. Raises ``Refused``."""
        for index, text in enumerate(texts):
            if len(text) > self.max_characters:
                raise Refused(f"text {index} has {len(text)} characters; at most {self.max_characters} are taken")
        try:
            encodings = self.encode(list(texts), add_special_tokens=self.special_tokens)
        except Exception:  # noqa: BLE001 - the library raises bare Exception
            raise Refused("holds something that the model's tokenizer has no token for") from None
        return {
            spec.name: np.array([getattr(item, _PARTS[part]) for item in encodings], spec.datatype.dtype)
            for part, spec in self.inputs.items()
        }


def read_text_steps(
    steps: Sequence[Step], specs: Mapping[str, TensorSpec], read_file: ReadFile
) -> tuple[TextInput | None, tuple[str, ...]]:
    """The step ``tokenize`` and the names of the model's inputs that it makes; mistakes are reported to it.

    ``specs`` are the model's inputs. None when the file cannot be used.
    """
    options = steps[0].options
    for step in steps[1:]:
        step.options.report("", "cannot follow tokenize")
    name = options.get("file", "tokenizer.json", to_text)
    max_length = options.require("max_length", 1, to_integer(1, _MAX_LENGTH), "how many tokens the model takes")
    truncate = options.get("truncate", "right", to_choice(("right", "left")))
    padding = options.get("padding", "longest", to_choice(("longest", "max")))
    special = options.get("special_tokens", True, to_flag)
    pad_id = options.get("pad_id", None, to_integer(0, 1 << 31))
    pad_type_id = options.get("pad_type_id", None, to_integer(0, 1 << 31))
    characters = options.get("max_characters", _MAX_CHARACTERS, to_integer(1, 1 << 30))
    inputs = _inputs(options, specs)
    options.finish()
    names = tuple(spec.name for spec in inputs.values())
    try:
        tokenizer = _load(read_file(name))
    except (ValueError, ModelError) as error:
        options.report("file", str(error) if isinstance(error, ModelError) else f"{name} {error}")
        return None, names
    given = tokenizer.padding or {}
    try:
        tokenizer.enable_truncation(max_length, direction=truncate)
        tokenizer.enable_padding(
            pad_id=given.get("pad_id", 0) if pad_id is None else pad_id,
            pad_type_id=given.get("pad_type_id", 0) if pad_type_id is None else pad_type_id,
            pad_token=given.get("pad_token", "[PAD]"),
            length=max_length if padding == "max" else None,
        )
        tokenizer.encode("", add_special_tokens=special)
    except BaseException as error:
        if not _is_from_library(error):
            raise
        options.report("", f"{name} does not go with these options: {str(error)[:200]}")
        return None, names
    added = tokenizer.num_special_tokens_to_add(is_pair=False) if special else 0
    if max_length <= added:
        # The library then cuts nothing at all.
        options.report("max_length", f"is {max_length}, but {added} special tokens are added to each text")
    # The quick one leaves out where in the text a token stands, which nobody asks for; older libraries do not have it.
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    return TextInput(inputs, encode, special, characters), names


def _load(content: bytes) -> Tokenizer:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        if not _is_from_library(error):
            raise
        raise ValueError(f"is not a tokenizer: {str(error)[:200]}") from None


def _is_from_library(error: BaseException) -> bool:
    """Whether the library raised it: it raises bare Exceptions, and its panics are none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _inputs(options: Section, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    value = options.raw("inputs")
    if not isinstance(value, dict) or "ids" not in value:
        options.report("inputs", 'must map ids (and mask, types) to the model\'s inputs, such as {"ids": "input_ids"}')
        return {}
    section = Section(value, options.at("inputs"), options.problems)
    found: dict[str, TensorSpec] = {}
    for part in _PARTS:
        name = section.raw(part)
        if not section.has(part):
            continue
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            shown = f"'{name}'" if isinstance(name, str) else kind_of(name)
            section.report(part, f"{shown} is no input of the model, which has {', '.join(specs)}")
        elif spec.datatype.name not in _NUMBERS or len(spec.shape) != 2:  # noqa: PLR2004 - texts and tokens
            section.report(part, f"'{name}' is {spec.datatype.name} {list(spec.shape)}, not INT64 or INT32 [n, length]")
        else:
            found[part] = spec
    section.finish()
    return found
