"""The one door to media files, for picture and sound, and FFmpeg's rule of which track is the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

PIXEL_LIMIT = 2**26  # pixels of one frame, 8192 x 8192; a header that claims more is damaged or hostile
ATTACHED_PICTURE, DEPENDENT = 0x400, 0x80000  # dispositions: cover art, a tile of a picture


def address(path: Path) -> str:
    """With a protocol and an absolute path no name is taken for a pattern, an option or an address."""
    return f"file:{path.absolute()}"


def open_media(path: Path) -> InputContainer:
    """Open for reading; damaged titles and tags are no reason to fail. Raises what PyAV raises."""
    import av

    mute()
    return av.open(
        address(path),
        options={"max_pixels": str(PIXEL_LIMIT)},
        container_options={"protocol_whitelist": "file", "pattern_type": "none"},
        metadata_errors="replace",
    )


def mute() -> None:
    """Turn FFmpeg's messages off, which is PyAV's default and which torchvision before 0.26 turns on.

    With them on, a decoder thread that reports an error waits for the interpreter's lock, and a close of that
    decoder holds the lock while it waits for the thread: neither ever ends.
    """
    import av

    av.logging.set_level(None)


def ranked_tracks(container: InputContainer, kind: Literal["video", "audio"]) -> list[Any]:
    """Streams of a kind, best first by FFmpeg's `av_find_best_stream`; no cover art and no tiles.

    Sound: the best that belongs to the best video. A stream without a decoder has `codec_context` None.
    """
    related = container.streams.best("video") if kind == "audio" else None
    best = container.streams.best(kind, related=related)
    streams = [s for s in getattr(container.streams, kind) if not has(s, ATTACHED_PICTURE | DEPENDENT)]
    return sorted(streams, key=lambda stream: best is None or stream.index != best.index)


def has(stream: Any, disposition: int) -> bool:
    """Whether a stream carries one of these flags."""
    return bool(stream.disposition & disposition)


def is_encrypted(packet: Packet[Any]) -> bool:
    """Whether a packet is encrypted (Common Encryption): its bytes mean nothing to a decoder."""
    return packet.has_sidedata("encryption_info")
