"""Routes of the HTTP service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException

import alpro
from alpro.api.guards import BodyLimit, Measured, TokenCheck
from alpro.api.metrics import Metrics
from alpro.api.schemas import (
    AskReply,
    AskRequest,
    ErrorReply,
    HealthReply,
    MatchReply,
    MatchRequest,
    SearchReply,
    SearchRequest,
    VersionReply,
)
from alpro.errors import AlproError, DataError
from alpro.search.query import Query
from alpro.served.engine import Reply, timed_out
from alpro.served.limits import RequestError
from alpro.served.stack import Served
from alpro.served.versions import Version
from alpro.system.local_requests import Application, LocalRequests
from alpro.terminal import logs

LOG = logs.get(__name__)
CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        401: "The token is missing.",
        403: "The path is outside of the folder of videos.",
        404: "The video does not exist.",
        409: "The folder is not indexed yet.",
        413: "The upload is too large, or the clip too long.",
        415: "The file is not a video.",
        422: "The request is not valid.",
        429: "Too many requests wait already.",
        503: "There is no model.",
        504: "The answer took too long.",
    }.items()
}


def create_app(served: Served, metrics: Metrics, timeout_s: float, token: str | None, local: bool) -> Application:
    """Return the service. `timeout_s`: for each request; `local`: refuse requests of other sites' pages, as on loopback."""
    api = FastAPI(
        title="ALPRO", version=alpro.__version__, description="Search, ask and match videos.",
        docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
    )  # fmt: skip
    patch_fastapi(api, redirect_from_root_to_docs=True, swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True})
    add_model_routes(api, Answering(served, timeout_s))
    add_state_routes(api, served, metrics)
    add_error_answers(api)
    metrics.watch(served)
    inner: Application = BodyLimit(api, served.limits)
    if token:
        inner = TokenCheck(inner, token)
    if local:
        inner = LocalRequests(inner, as_json=True)
    return Measured(inner, metrics, [route.path for route in api.routes if hasattr(route, "path")])


class Answering:
    """Runs requests through the engine, within the time limit."""

    def __init__(self, served: Served, timeout_s: float) -> None:
        self.served, self.timeout_s = served, timeout_s

    async def search(self, body: SearchRequest) -> Response:
        """Search by a text or by a clip."""
        limits, collection = self.served.limits, self.served.collections.get(self.served.videos.path)
        if (body.text is None) == (body.like is None):
            raise RequestError(422, "invalid_request", "Give either `text` or `like`.")
        if body.like is not None:
            name = self.served.videos.name(self.served.videos.video(body.like))
            hits, version = await asyncio.to_thread(collection.searcher.similar, name, body.count), collection.version
        else:
            query = Query(limits.text(body.text, "text"), body.count, body.rerank)
            reply = await self._wait(self.served.engine.search(collection, query, self.timeout_s))
            hits, version = reply.value, reply.version
        return _json({"hits": [asdict(hit) for hit in hits], "model": _model(version)})

    async def ask(self, video: Path, name: str, question: str) -> Response:
        """Answer a question on a clip."""
        question = self.served.limits.text(question, "question")
        reply = await self._wait(self.served.engine.ask(video, question, self.timeout_s, name))
        return _json({"answers": [asdict(answer) for answer in reply.value], "model": _model(reply.version)})

    async def match(self, video: Path, name: str, texts: list[str]) -> Response:
        """Match texts with a clip."""
        texts = self.served.limits.many_texts(texts, "text")
        reply = await self._wait(self.served.engine.match(video, texts, self.timeout_s, name))
        return _json({"matches": [asdict(match) for match in reply.value], "model": _model(reply.version)})

    async def stored(self, file: UploadFile) -> Path:
        """Store an upload; its route removes it."""
        return await asyncio.to_thread(self.served.uploads.add, file.file, file.filename or "")

    async def _wait(self, future: Future[Reply]) -> Reply:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout_s)
        except TimeoutError:
            raise timed_out() from None


def add_model_routes(api: FastAPI, answering: Answering) -> None:
    """Add the routes that use the models."""
    served = answering.served

    @api.post("/search", response_model=SearchReply, responses=ERRORS, summary="Find clips by a text, or like a clip")
    async def search(body: SearchRequest) -> Response:
        return await answering.search(body)

    @api.post("/ask", response_model=AskReply, responses=ERRORS, summary="Answer a question on a clip of the folder")
    async def ask(body: AskRequest) -> Response:
        return await answering.ask(served.videos.video(body.video), body.video, body.question)

    @api.post("/match", response_model=MatchReply, responses=ERRORS, summary="Compare texts with a clip of the folder")
    async def match(body: MatchRequest) -> Response:
        return await answering.match(served.videos.video(body.video), body.video, body.texts)

    @api.post("/ask/upload", response_model=AskReply, responses=ERRORS, summary="Answer a question on an uploaded clip")
    async def ask_upload(file: Annotated[UploadFile, File()], question: Annotated[str, Form()]) -> Response:
        path = await answering.stored(file)
        try:
            return await answering.ask(path, file.filename or "", question)
        finally:
            served.uploads.remove(path)

    @api.post("/match/upload", response_model=MatchReply, responses=ERRORS, summary="Compare texts with an uploaded clip")
    async def match_upload(file: Annotated[UploadFile, File()], texts: Annotated[list[str], Form()]) -> Response:
        path = await answering.stored(file)
        try:
            return await answering.match(path, file.filename or "", texts)
        finally:
            served.uploads.remove(path)


def add_state_routes(api: FastAPI, served: Served, metrics: Metrics) -> None:
    """Add the routes for those who run the service."""

    @api.get("/health", response_model=HealthReply, responses={503: {"model": HealthReply}}, summary="Readiness")
    async def health() -> Response:
        versions = {role: version.title for role, version in served.models.current().items()}
        collections, root = served.collections, served.videos.path
        try:
            videos = len(collections.get(root).searcher.index.videos) if "search" in versions else None
            missing = []
        except RequestError as error:
            videos, missing = None, [str(error)]
        healthy = bool(versions) and root.is_dir()
        content = {
            "status": "ok" if healthy else "unavailable",
            "models": versions,
            "videos": videos,
            "waiting": served.engine.pending,
            "problems": [*served.models.problems.values(), *missing],
        }
        return _json(content, 200 if healthy else 503)

    @api.get("/version", response_model=VersionReply, summary="Versions of the package and of the models in use")
    async def version() -> Response:
        models = {
            role: {"name": used.name, "origin": used.origin, "task": used.service.task, "weights": used.weights}
            for role, used in served.models.current().items()
        }
        return _json({"alpro": alpro.__version__, "models": models})

    @api.get("/metrics", summary="Metrics in Prometheus' format", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_error_answers(api: FastAPI) -> None:
    """Answer every error as JSON, with a sentence and without a traceback."""

    @api.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _error(error.status, error.code, str(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(422, "invalid_request", "; ".join(_sentence(fault) for fault in error.errors()[:3]))

    @api.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, CODES.get(error.status_code, "http_error"), str(error.detail), error.headers)

    @api.exception_handler(AlproError)
    async def failed(request: Request, error: AlproError) -> Response:
        LOG.warning("%s: %s", request.url.path, error)
        unusable = isinstance(error, DataError)
        message = "The data cannot be used" if unusable else "The model cannot be used"
        return _error(
            422 if unusable else 500, "data_error" if unusable else "model_error", f"{message}; see the server's log."
        )

    @api.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _error(500, "internal_error", "The server failed; see its log.")


def _sentence(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "body")
    return f"{place or 'body'}: {fault['msg']}"[:200]


def _model(version: Version) -> dict[str, str]:
    return {"name": version.name, "origin": version.origin}


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), status, media_type="application/json")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    more = {"Retry-After": "1"} if status == 429 else {}
    body = json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, status, {**(headers or {}), **more}, media_type="application/json")
