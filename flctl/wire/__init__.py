"""Messages between server and clients: frames, their contents, and the memory that they lie in."""

from flctl.wire.frames import Frame, kind_of, lengths, pack, pack_parts, size, unpack

__all__ = ["Frame", "kind_of", "lengths", "pack", "pack_parts", "size", "unpack"]
