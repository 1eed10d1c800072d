"""Clips for the browser: links that name nothing of the disk, and copies of files that no browser plays."""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from alpro.config.data import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media.read import read_frames
from alpro.data.media.streams import open_video, video_stream
from alpro.errors import DataError
from alpro.served.limits import RequestError
from alpro.served.versions import clip_key

ROUTE, POSTER = "/clips/{key}", "/clips/{key}/poster"
POSTER_SIDE = 320  # pixels of the longer side
LINKS = 20_000  # that are remembered
PLAYABLE = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
CODECS = {"h264", "vp8", "vp9", "av1"}
COPY = Convert(source="clips", output="copies", short_side=480, min_frames=1, gop=25)


class ClipLinks:
    """Links to clips that this process has shown. Nobody can make a link to another file."""

    def __init__(self, copies: Path) -> None:
        """`copies`: folder for copies that browsers can play."""
        self.copies, self._secret = copies, secrets.token_bytes(16)
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock, self._converting = threading.Lock(), threading.Lock()

    def link(self, path: Path) -> str:
        """Return the link to a clip."""
        key = hashlib.blake2b(str(path).encode(), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._paths[key] = path
            self._paths.move_to_end(key)
            while len(self._paths) > LINKS:
                self._paths.popitem(last=False)
        return f"/clips/{key}"

    def respond(self, request: Request) -> Response:
        """Answer a browser's request for a clip, or for a part of it (`Range`). Runs in a thread of its own."""
        path = self._paths.get(request.path_params["key"])
        if path is None or not path.is_file():
            return PlainTextResponse("This clip does not exist any more.", 404)
        headers = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
        try:
            playable = path if is_playable(path) else self._copy(path)
        except RequestError as error:
            return PlainTextResponse(str(error), error.status)
        return FileResponse(playable, media_type=PLAYABLE[playable.suffix.lower()], headers=headers)

    def poster(self, request: Request) -> Response:
        """Answer with the middle frame of a clip as a JPEG."""
        from PIL import Image

        path = self._paths.get(request.path_params["key"])
        try:
            if path is None:
                raise DataError("no such clip")
            frame = Image.fromarray(read_frames(path, 1, None)[0])
        except DataError:
            return PlainTextResponse("This clip cannot be read.", 404)
        frame.thumbnail((POSTER_SIDE, POSTER_SIDE))
        data = io.BytesIO()
        frame.save(data, "JPEG", quality=80)
        return Response(data.getvalue(), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    def _copy(self, path: Path) -> Path:
        """Return a copy of a clip as H.264, made when it is first asked for; one at a time, as it uses a whole core."""
        name = hashlib.blake2b(repr(clip_key(path)).encode(), digest_size=16).hexdigest()
        copy = self.copies / f"{name}.mp4"
        with self._converting:
            if not copy.is_file() and (reason := convert_file(path, copy, COPY)):
                raise RequestError(415, "not_a_video", f"{path.name} cannot be played: {reason}")
        return copy


def is_playable(path: Path) -> bool:
    """Return True if browsers play this file as it is."""
    import av

    if path.suffix.lower() not in PLAYABLE:
        return False
    try:
        with open_video(path) as container:
            stream = video_stream(container)
            return stream.codec_context.name in CODECS | {"libdav1d"} and stream.codec_context.pix_fmt == "yuv420p"
    except (DataError, OSError, av.FFmpegError):
        return False
