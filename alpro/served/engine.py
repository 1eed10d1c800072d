"""Dynamic batching: requests that wait go through the model together.

A request passes two steps. Threads read the frames of a clip that is not encoded yet, so that a slow or damaged file delays
only its own request. Then one thread takes all waiting requests of a kind and a version, encodes their new clips together,
and answers them in one batch. Nothing waits for a batch to fill: a request that comes alone is answered alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from alpro.errors import DataError
from alpro.search.query import Hit, Query
from alpro.served.collections import Collection
from alpro.served.following import ServedModels
from alpro.served.inference import answer_pairs, encode_clips, match_pairs, read_frames
from alpro.served.limits import RequestError, short
from alpro.served.versions import ClipKey, Role, Version, clip_key
from alpro.serving import Answer, Match

Kind = Literal["ask", "match", "search"]
BATCH_PAIRS: dict[Kind, int] = {"ask": 64, "match": 64, "search": 512}  # pairs of a clip and a text in a batch
BATCH_CLIPS = 16  # clips encoded together
QUEUE = 256  # requests that may wait
READERS = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """A result with the version that computed it. `value`: list of Answer, of Match or of Hit."""

    value: Any
    version: Version


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through the model. `deadline`: on time.monotonic()'s clock."""

    kind: Kind
    version: Version
    texts: list[str]
    cost: int  # pairs of a clip and a text
    deadline: float
    name: str = ""  # of the clip, for messages
    key: ClipKey | None = None
    tokens: Tensor | None = None
    frames: Tensor | None = None
    collection: Collection | None = None
    query: Query | None = None
    future: Future[Reply] = field(default_factory=Future)


class Engine:
    """Answers questions, matches texts and searches, in batches. `observe_batch(kind, requests)` is called for each batch."""

    def __init__(
        self, models: ServedModels, queue: int = QUEUE, observe_batch: Callable[[Kind, int], None] = lambda kind, size: None
    ) -> None:
        self.models, self.limit, self.observe_batch = models, queue, observe_batch
        self._waiting: deque[Job] = deque()
        self._pending = 0  # requests that are not answered yet
        self._changed = threading.Condition()
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="alpro-read")
        self._thread = threading.Thread(target=self._run, name="alpro-model", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Number of requests that are not answered yet."""
        return self._pending

    def ask(self, video: Path, question: str, timeout_s: float, name: str = "") -> Future[Reply]:
        """Return the answers to a question, to come: list of Answer, most likely first. Raises RequestError (429, 503)."""
        return self._on_clip("ask", "ask", video, [question], timeout_s, name)

    def match(self, video: Path, texts: Sequence[str], timeout_s: float, name: str = "") -> Future[Reply]:
        """Return how well each text fits a clip, to come: list of Match. Raises RequestError (429, 503)."""
        return self._on_clip("match", "search", video, list(texts), timeout_s, name)

    def search(self, collection: Collection, query: Query, timeout_s: float) -> Future[Reply]:
        """Return the best clips of a folder, to come: list of Hit. Raises RequestError (429)."""
        pairs = min(query.rerank, len(collection.searcher.index.videos))
        job = Job("search", collection.version, [query.text], max(1, pairs), time.monotonic() + timeout_s)
        job.collection, job.query = collection, query
        self._admit(job)
        self._queue(job)
        return job.future

    def close(self) -> None:
        """End the threads; requests that still wait are refused."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for job in waiting:
            self._fail(job, RequestError(503, "stopping", "The server is being stopped."))
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._thread.join()

    def _on_clip(self, kind: Kind, role: Role, video: Path, texts: list[str], timeout_s: float, name: str) -> Future[Reply]:
        version = self.models.version(role)
        job = Job(kind, version, texts, len(texts), time.monotonic() + timeout_s, short(name or video.name))
        try:
            job.key = clip_key(video)
        except OSError:
            raise RequestError(404, "video_missing", f"The video {job.name} does not exist any more.") from None
        self._admit(job)
        job.tokens = version.clips.get(job.key)
        if job.tokens is not None:
            self._queue(job)
            return job.future
        reading = version.clips.read_once(job.key, lambda: self._readers.submit(read_frames, version.service, video))
        reading.add_done_callback(lambda done: self._was_read(job, done))
        return job.future

    def _admit(self, job: Job) -> None:
        with self._changed:
            if self._closed:
                raise RequestError(503, "stopping", "The server is being stopped.")
            if self._pending >= self.limit:
                raise RequestError(429, "busy", f"{self._pending} requests are waiting already; try again in a moment.")
            self._pending += 1
        job.future.add_done_callback(self._count_down)

    def _count_down(self, future: Future[Reply]) -> None:
        with self._changed:
            self._pending -= 1

    def _was_read(self, job: Job, reading: Future[Tensor]) -> None:
        if reading.cancelled():
            self._fail(job, RequestError(503, "stopping", "The server is being stopped."))
        elif error := reading.exception():
            self._fail(job, _unreadable(job, error))
        else:
            job.frames = reading.result()
            self._queue(job)

    def _queue(self, job: Job) -> None:
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    # --- the model's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (jobs := self._next_batch()) is not None:
            jobs = [job for job in jobs if self._still_wanted(job)]
            if not jobs:
                continue
            self.observe_batch(jobs[0].kind, len(jobs))
            try:
                results = self._compute(jobs)
            except BaseException as error:  # whatever it is, no caller may wait for ever
                for job in jobs:
                    self._fail(job, error)
                continue
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(Reply(result, job.version))

    def _next_batch(self) -> list[Job] | None:
        """Wait for a request; return it with all that fit into its batch, or None at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            first = self._waiting.popleft()
            batch, others, pairs = [first], deque[Job](), first.cost
            for job in self._waiting:
                fits = pairs + job.cost <= BATCH_PAIRS[first.kind] and job.kind == first.kind and job.version is first.version
                if fits and job.collection is first.collection:
                    batch.append(job)
                    pairs += job.cost
                else:
                    others.append(job)
            self._waiting = others
            return batch

    def _still_wanted(self, job: Job) -> bool:
        if not job.future.set_running_or_notify_cancel():
            if job.key is not None:
                job.version.clips.drop_read(job.key)
            return False
        if time.monotonic() > job.deadline:
            self._fail(job, timed_out())
            return False
        return True

    def _compute(self, jobs: Sequence[Job]) -> list[list[Answer]] | list[list[Match]] | list[list[Hit]]:
        first = jobs[0]
        if first.collection is not None:
            return first.collection.searcher.search_many([job.query for job in jobs if job.query])
        self._encode(jobs)
        pairs = [(job.tokens, text) for job in jobs if job.tokens is not None for text in job.texts]
        if first.kind == "ask":
            return answer_pairs(first.version.service, pairs)
        matches = iter(match_pairs(first.version.service, pairs))
        return [[next(matches) for _ in job.texts] for job in jobs]

    def _encode(self, jobs: Sequence[Job]) -> None:
        """Encode the clips that are new, each once."""
        version = jobs[0].version
        for job in jobs:
            if job.tokens is None and job.key is not None:
                job.tokens = version.clips.get(job.key)  # encoded for an earlier batch meanwhile
        new = {job.key: job.frames for job in jobs if job.tokens is None and job.key and job.frames is not None}
        keys = list(new)
        for start in range(0, len(keys), BATCH_CLIPS):
            chunk = keys[start : start + BATCH_CLIPS]
            for key, tokens in zip(chunk, encode_clips(version.service, [new[key] for key in chunk]), strict=True):
                version.clips.put(key, tokens)
                for job in jobs:
                    if job.key == key:
                        job.tokens = tokens

    def _fail(self, job: Job, error: BaseException) -> None:
        if job.key is not None:
            job.version.clips.drop_read(job.key)
        if not job.future.done():
            job.future.set_exception(error)


def timed_out() -> RequestError:
    """Return the error for a request that was not answered in time."""
    return RequestError(
        504, "timeout", "The request was not answered in time; the server is busy, or the clip is slow to read."
    )


def _unreadable(job: Job, error: BaseException) -> BaseException:
    if not isinstance(error, DataError):
        return error
    reason = " ".join(str(error).split()).rsplit(": ", 1)[-1]
    return RequestError(415, "not_a_video", f"{job.name} can't be read: {reason}")
