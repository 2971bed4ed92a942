# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One process that runs the models of a device for several workers.

Workers talk HTTP, decode and encode; on a GPU, sessions of their own would hold the weights as many times and fill no
batch together. So each device has an *engine process* with the sessions, and workers reach it through *lanes*: a Unix
socket for a few words, and memory that both see for the tensors. ``lane`` is the connection, ``host`` what runs in the
engine process, ``link`` what workers hold. Nothing is imported here: the supervisor starts the process, and must not
load numpy or ONNX Runtime, which start threads.
"""
