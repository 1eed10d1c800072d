"""Bodies of requests and answers, as the OpenAPI pages show them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from alpro.search.query import RERANK
from alpro.served.limits import Limits

LIMITS = Limits()


class _Request(BaseModel):
    """A request: unknown keys are refused, because they are typing errors."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Request):
    """A search by a text, or for clips like another one."""

    text: str | None = Field(None, description="Description of the clip.", examples=["a red ball moves to the left"])
    like: str | None = Field(None, description="Name of a clip instead of a text: find similar ones.")
    count: int = Field(5, ge=1, le=LIMITS.results, description="Number of clips to return.")
    rerank: int = Field(RERANK, ge=0, le=LIMITS.rerank, description="How many of VTC's best clips VTM re-ranks; 0: none.")


class AskRequest(_Request):
    """A question on a clip."""

    video: str = Field(description="Name of the clip in the folder of videos.", examples=["video0.mp4"])
    question: str = Field(description="A question in English.", examples=["what moves to the left?"])


class MatchRequest(_Request):
    """Texts to compare with a clip."""

    video: str = Field(description="Name of the clip in the folder of videos.", examples=["video0.mp4"])
    texts: list[str] = Field(description="One or more texts.", examples=[["a red ball moves", "a blue cube turns"]])


class ModelName(BaseModel):
    """The model that computed an answer."""

    name: str = Field(description="Registered version or checkpoint.", examples=["alpro-msvd_qa/3"])
    origin: str = Field(description="champion, checkpoint or file.")


class SearchHit(BaseModel):
    """A clip that was found."""

    video: str
    score: float | None = Field(description="VTM's probability of a match; null if VTM did not score it.")
    similarity: float = Field(description="VTC's cosine.")


class SearchReply(BaseModel):
    """Clips, best first."""

    hits: list[SearchHit]
    model: ModelName


class AnswerRow(BaseModel):
    """One of the most likely answers."""

    answer: str
    probability: float


class AskReply(BaseModel):
    """The five most likely answers, most likely first."""

    answers: list[AnswerRow]
    model: ModelName


class MatchRow(BaseModel):
    """Match of a text and the clip."""

    text: str
    probability: float = Field(description="VTM's probability of a match.")
    similarity: float = Field(description="VTC's cosine.")


class MatchReply(BaseModel):
    """One row for each text, in their order."""

    matches: list[MatchRow]
    model: ModelName


class Fault(BaseModel):
    """Code and sentence of an error."""

    code: str = Field(description="One word for programs.", examples=["video_missing"])
    message: str = Field(description="A sentence for people.")


class ErrorReply(BaseModel):
    """Every error has this form."""

    error: Fault


class HealthReply(BaseModel):
    """State of the service. Status 503 if no model is loaded."""

    status: str = Field(description="ok, or unavailable.")
    models: dict[str, str] = Field(description="The model in use for each of search (and match) and ask.")
    videos: int | None = Field(description="Clips that can be searched; null until they are indexed.")
    waiting: int = Field(description="Requests that are not answered yet.")
    problems: list[str]


class VersionReply(BaseModel):
    """Versions of the package and of the models."""

    alpro: str
    models: dict[str, dict[str, str]]
