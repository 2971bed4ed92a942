# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pre- and post-processing that a package declares: image files, text and raw bytes in, labels and scores out.

The declaration is the key ``serving.pipeline`` of the manifest, signed like everything else. It is data, not code: a
list of inputs and a list of outputs, each with steps that are applied in their order. What it does not mention passes
through unchanged; with ``outputs``, only those listed are answered. For example::

    {"inputs": [{"name": "image", "input": "x", "steps": [
         {"decode": {"channels": "BGR"}}, {"resize": {"height": 48, "max_width": 192}},
         {"normalise": {"divide": 255, "mean": 0.5, "std": 0.5}}, {"pad": {"width": 192}}, {"layout": "NCHW"}]}],
     "outputs": [{"output": "save_infer_model/scale_0.tmp_1", "steps": [
         {"top": {"k": 1, "labels": "config.json", "outputs": {"label": "label", "score": "score"}}}]}]}

An input has ``name`` (what clients send, a BYTES tensor of shape ``[n]``), ``input`` (the model's, default: the same
name), ``max_items`` (the largest n, default 64) and ``steps``. An output has ``output`` (the model's), ``name`` (what
clients get, default: the same name) and ``steps``, none by default.

Steps of an input, which begin with one of these:

- ``decode``: an image file. ``formats`` (default JPEG, PNG, WEBP), ``channels`` (RGB, BGR, GREY; default RGB),
  ``orientation`` (apply EXIF's, default true), ``alpha`` (``drop``, or the background [r, g, b] it is laid over;
  default ``drop``, as most loaders do), ``max_pixels`` (default 25,000,000), ``max_bytes`` (default 33,554,432). Then:

  - ``resize``: ``width`` and ``height`` (exactly), or ``height`` alone with an optional ``max_width`` (in proportion,
    rounded up, and squeezed to the maximum, as for lines of text), or ``shorter`` or ``longer`` (that side gets so many
    pixels, the other in proportion). ``filter`` (nearest, box, bilinear, hamming, bicubic, lanczos; default bilinear);
    ``antialias`` (default true; false with bilinear: as OpenCV's INTER_LINEAR does).
  - ``crop``: ``width`` and ``height``, around the centre.
  - ``pad``: ``width`` and/or ``height``, with ``value`` (a number, or one for each channel; default 0) on the right and
    below; ``align: centre``: on all sides.
  - ``normalise``: (v / ``divide`` - ``mean``) / ``std``, each a number or one for each channel; the result is FP32.
  - ``layout``: NHWC (default) or NCHW.

- ``tokenize``: text. ``file`` (default tokenizer.json, of the package ``tokenizers``), ``max_length`` (required; longer
  texts are cut), ``truncate`` (right, left), ``padding`` (longest, max), ``special_tokens`` (default true), ``pad_id``,
  ``pad_type_id`` (default: as the file says, else 0), ``max_characters`` (default 100,000), and ``inputs``, which maps
  ``ids``, ``mask``, ``types`` to the model's inputs (``input`` of the entry is not used).
- ``bytes``: the first and the last bytes of a file as numbers. ``head``, ``tail`` (how many), ``block`` (they are taken
  from so many at either end, default 4096), ``strip`` (white space before the head and after the tail is left out,
  default true), ``padding`` (number that fills short ones: behind the head, before the tail; default 256).

Steps of an output: ``softmax``, ``sigmoid``, ``normalise`` (to length 1), ``argmax``, each with ``axis`` (default -1);
``threshold`` (a number: true where the value is at least that); ``labels`` (file with a label for each number: lines of
text, a JSON list, or a JSON object with the list ``labels``); ``top``: the ``k`` greatest of the last axis (default 1),
with ``labels``, ``threshold`` (of the score; below it the label is ``other``, default empty, and the index -1) and
``outputs``, which maps ``label``, ``score``, ``index`` to names that clients get; it is the last step.
"""

from __future__ import annotations

from ai102_server.pipeline.pipeline import Pipeline, load

__all__ = ["Pipeline", "load"]
