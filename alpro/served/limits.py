"""Limits of a request: lengths of texts and sizes of videos; and the error that a caller is told, with its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpro.errors import AlproError, DataError
from alpro.files.names import shown, text_fault

MEGABYTE = 1_000_000
NAME_SHOWN = 120  # characters of a name or text in a message
# Playlists and manifests, which name other files that a decoder would then open: HLS, concat, DASH, IMF, SMIL.
_LISTS = (b"#ext", b"ffconcat", b"<mpd", b"<composition", b"<?xml", b"<smil")
_START = 4096  # bytes in which they are looked for


class RequestError(AlproError):
    """A request that is refused. `status` is the HTTP status, `code` one word for programs, and the text is for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes up to which a request is accepted."""

    text_characters: int = 1000  # far more than the 40 tokens that a model reads
    texts: int = 64  # texts of one clip in a request
    results: int = 100  # clips that a search returns
    rerank: int = 1000  # clips that VTM re-ranks for a search
    upload_bytes: int = 200 * MEGABYTE
    seconds: float = 600.0  # of an uploaded clip
    pixels: int = 4096 * 2304  # of a frame

    def text(self, text: object, name: str) -> str:
        """Return a text without surrounding space. Raises RequestError (422) if it is empty, too long or no valid text."""
        if not isinstance(text, str) or not text.strip():
            raise RequestError(422, "empty_text", f"The {name} is empty; write some words.")
        if len(text) > self.text_characters:
            length = f"The {name} has {len(text):,} characters"
            raise RequestError(422, "text_too_long", f"{length}; at most {self.text_characters:,} are allowed.")
        if fault := text_fault(text):
            raise RequestError(422, "invalid_text", f"The {name} {fault}.")
        return text.strip()

    def many_texts(self, texts: Sequence[str], name: str) -> list[str]:
        """Return texts as `text` does. Raises RequestError (422) if there is none, or if there are too many."""
        if not texts:
            raise RequestError(422, "empty_text", f"There is no {name}; write at least one.")
        if len(texts) > self.texts:
            raise RequestError(422, "too_many_texts", f"There are {len(texts)} texts; at most {self.texts} are allowed.")
        return [self.text(text, name) for text in texts]

    def upload(self, path: Path, name: str) -> None:
        """Check an uploaded file from its header, before a frame is decoded.

        Raises RequestError: 413 if it has too many bytes, seconds or pixels, 415 if it is no video.
        """
        import av

        from alpro.data.media.streams import error_summary, open_video, video_stream

        label = short(name)
        size = path.stat().st_size
        if size > self.upload_bytes:
            raise self.too_large(label)
        if names_other_files(path):
            raise RequestError(415, "not_a_video", f"{label} is not a video: it is a text, or a list of other files.")
        try:
            with open_video(path) as container:
                stream = video_stream(container)
                width, height = stream.width, stream.height
                length = container.duration / 1e6 if container.duration else 0.0
                if not length and stream.frames and stream.average_rate:
                    length = float(stream.frames / stream.average_rate)
        except (DataError, OSError, av.FFmpegError) as error:
            reason = error_summary(error) if isinstance(error, av.FFmpegError) else str(error).removeprefix(f"{path}: ")
            raise RequestError(415, "not_a_video", f"{label} is not a video that can be read ({reason}).") from None
        if length > self.seconds:
            message = (
                f"{label} is {length:,.0f} seconds long; at most {self.seconds:,.0f} are allowed. Cut it to the part you mean."
            )
            raise RequestError(413, "clip_too_long", message)
        if width * height > self.pixels:
            message = f"{label} has {width} x {height} pixels; at most {self.pixels:,} are allowed. Make it smaller."
            raise RequestError(413, "frame_too_large", message)

    def too_large(self, label: str = "The upload") -> RequestError:
        """Return the error for an upload with too many bytes."""
        return RequestError(
            413, "upload_too_large", f"{label} is too large; at most {self.upload_bytes / MEGABYTE:g} MB are allowed."
        )


def names_other_files(path: Path) -> bool:
    """Return True if a file may be a list of other files: it is a text, or its start looks like a list."""
    with path.open("rb") as file:
        start = file.read(_START).lower()
    binary = any(byte < 9 or byte > 126 for byte in start[:1024])
    return bool(start) and (not binary or any(mark in start for mark in _LISTS))


def short(text: str) -> str:
    """Return a name or text of a caller for a message: printable and not too long."""
    printable = shown(text)
    return printable if len(printable) <= NAME_SHOWN else f"{printable[:NAME_SHOWN]}..."
