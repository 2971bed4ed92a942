# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A connection between a worker and an engine process: one question at a time, then its answer.

A message is a JSON object in one packet; the tensors that belong to it lie in a piece of anonymous memory (``memfd``)
that both ends map. So a tensor is copied once into the memory, and read where it lies. The end that sends makes the
memory larger when it must.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from ai102_server.codec import DATATYPES, Datatype
from ai102_server.codec.datatypes import Array

__all__ = ["Lane", "LaneError", "LaneUnreadError", "Tensor"]

_MESSAGE_BYTES: Final = 1 << 18
_FIRST_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 1 << 26
_ALIGNMENT: Final = 64
_CREDENTIALS: Final = struct.Struct("3i")


class LaneError(OSError):
    """The other end is gone, or does not answer in time."""


class LaneUnreadError(LaneError):
    """The other end is gone, and has not read what was sent last: it may be sent again elsewhere."""


class Tensor(NamedTuple):
    """An array with its name and its datatype in V2."""

    name: str
    datatype: Datatype
    array: Array


class Lane:
    """One end. Not for several threads at once.

    Args:
        end: The connected socket, of type ``SOCK_SEQPACKET``.
        memory: Descriptor of the memory; it is this object's from now on.

    """

    def __init__(self, end: socket.socket, memory: int) -> None:
        self._socket: Final = end
        self._memory: Final = memory
        self._size = 0
        self._map: mmap.mmap | None = None

    @classmethod
    def connect(cls, address: bytes, seconds: float | None) -> Lane:
        """Connect to an engine process; it need not have begun to answer. Raises ``LaneError`` or ``LaneUnreadError``.

        Args:
            address: Its socket.
            seconds: How long to wait for each answer; None: as long as it takes.

        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = -1
        try:
            end.settimeout(seconds)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE_BYTES)
            end.connect(address)
            memory = os.memfd_create("ai102_lane", os.MFD_CLOEXEC)
            socket.send_fds(end, [b"{}"], [memory])
        except OSError as error:
            end.close()
            if memory >= 0:
                os.close(memory)
            raise _kind(error)(f"the engine process cannot be reached: {error}") from error
        return cls(end, memory)

    @classmethod
    def accept(cls, end: socket.socket) -> Lane:
        """Take the other end's connection. Raises ``LaneError``, also when it is another user's."""
        try:
            peer = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            user = _CREDENTIALS.unpack(peer)[1]
            if user != os.geteuid():
                raise LaneError(f"refused a connection of user {user}")
            end.settimeout(10)
            descriptors = socket.recv_fds(end, 16, 1)[1]
            if not descriptors:
                raise LaneError("a connection without memory")
            end.settimeout(None)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE_BYTES)
        except OSError as error:
            end.close()
            raise error if isinstance(error, LaneError) else LaneError(str(error)) from error
        return cls(end, descriptors[0])

    @property
    def large(self) -> bool:
        """Whether it holds more memory than one should keep for the next question."""
        return self._size > _KEPT_BYTES

    def close(self) -> None:
        """Close it; the memory goes when nobody reads from it any more. Harmless when it is closed already."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            os.close(self._memory)
            self._map = None

    def __del__(self) -> None:
        self.close()

    def patience(self, seconds: float | None) -> None:
        """Set how long to wait for each answer; None: as long as it takes."""
        self._socket.settimeout(seconds)

    def send(self, message: dict[str, Any], tensors: Iterable[Tensor] = ()) -> None:
        """Send a message with tensors, which overwrite those of the message before. Raises as ``receive``."""
        described: list[tuple[str, str, tuple[int, ...], int, int]] = []
        parts: list[tuple[int, Array]] = []
        at = 0
        for name, datatype, array in tensors:
            plain = _text(array) if datatype.wire is None else np.ascontiguousarray(array)
            described.append((name, datatype.name, array.shape, at, plain.nbytes))
            parts.append((at, plain))
            at += -(-plain.nbytes // _ALIGNMENT) * _ALIGNMENT
        try:
            memory = self._mapped(at)
            for offset, plain in parts:
                if plain.nbytes:
                    np.frombuffer(memory, np.uint8, plain.nbytes, offset)[:] = plain.reshape(-1).view(np.uint8)
            self._socket.send(orjson.dumps({**message, "tensors": described, "bytes": self._size}))
        except OSError as error:
            raise _kind(error)(f"the engine process is gone: {error}") from error

    def receive(self) -> tuple[dict[str, Any], list[Tensor]]:
        """The next message. Its tensors are read-only views of the memory, good until the next ``send``.

        Raises:
            LaneUnreadError: The other end is gone, and has not read what was sent.
            LaneError: The other end is gone, or does not answer in time.

        """
        try:
            raw = self._socket.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise _kind(error)(f"the engine process does not answer: {error}") from error
        if not raw:
            raise LaneError("the engine process is gone")
        message: dict[str, Any] = orjson.loads(raw)
        tensors: list[Tensor] = []
        described = message.pop("tensors")
        size = message.pop("bytes")
        if described:
            memory = self._mapped(size)
            for name, kind, shape, offset, length in described:
                datatype = DATATYPES[kind]
                data = np.frombuffer(memory, np.uint8, length, offset)
                if datatype.wire is None:
                    array = np.array(orjson.loads(data.tobytes()), dtype=object).reshape(shape)
                else:
                    array = data.view(datatype.dtype).reshape(shape)
                    array.flags.writeable = False
                tensors.append(Tensor(name, datatype, array))
        return message, tensors

    def _mapped(self, size: int) -> mmap.mmap:
        """The memory, of at least so many bytes."""
        if self._map is None or size > self._size:
            wanted = max(size, _FIRST_BYTES)
            wanted = 1 << (wanted - 1).bit_length()
            if os.fstat(self._memory).st_size < wanted:
                os.ftruncate(self._memory, wanted)
            # The map before stays for as long as an array looks into it.
            self._map = mmap.mmap(self._memory, wanted)
            self._size = wanted
        return self._map


def _kind(error: OSError) -> type[LaneError]:
    """Which error to raise. Linux says ``ECONNRESET``, and not just that this is the end, when something is unread."""
    return LaneUnreadError if isinstance(error, (BrokenPipeError, ConnectionResetError)) else LaneError


def _text(array: Array) -> Array:
    """Elements of a BYTES tensor of a model, which are text, as bytes."""
    return np.frombuffer(orjson.dumps([str(item) for item in array.ravel().tolist()]), np.uint8)
