"""The body of /v1/chat/completions, and the one question that it asks the model."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipelines.serving.answers import Sampling
from pipelines.serving.errors import ApiError
from pipelines.serving.recipe import BatchSection

DEFAULT_TOKENS = 64
MAX_MESSAGES = 64
MAX_STOPS = 4


class Body(BaseModel):
    """Nothing is converted, and what is not known is refused: no parameter is silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ImageUrl(Body):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=32)]
    name: str | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[str]:
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(Body):
    include_usage: bool = False


class ExplainOptions(Body):
    """`extra_body={"liveedit": {...}}`."""

    explain: bool = False


class ChatRequest(Body):
    """OpenAI's request, as far as this model can fulfil it."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=100)]] | None,
        Field(max_length=MAX_STOPS),
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    liveedit: ExplainOptions = ExplainOptions()

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's question")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream")
        return self

    def sampling(self, limits: BatchSection) -> list[Sampling]:
        """One for each answer that is asked for; ApiError beyond the limits."""
        asked = self.max_completion_tokens or self.max_tokens
        max_tokens = asked or min(DEFAULT_TOKENS, limits.max_tokens)
        count = self.n or 1
        for name, value, most in (
            ("max_tokens", max_tokens, limits.max_tokens),
            ("n", count, limits.max_choices),
        ):
            if value > most:
                raise ApiError(
                    400, f"{name}: at most {most} are accepted", code="invalid_value", param=name
                )
        return [
            Sampling(
                max_tokens=max_tokens,
                temperature=self.temperature or 0.0,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=None if self.seed is None else (self.seed + choice) % 2**63,
                stop=tuple(self.stop or ()),
            )
            for choice in range(count)
        ]

    def image_url(self) -> str | None:
        """The newest image of the conversation: the one that the last question is about."""
        for message in reversed(self.messages):
            if len(message.images) > 1:
                raise ApiError(
                    400,
                    "messages: the model sees one image with a question, this message has "
                    f"{len(message.images)}",
                    code="too_many_images",
                    param="messages",
                )
            if message.images:
                return message.images[0]
        return None

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1].text

    @property
    def earlier(self) -> tuple[tuple[str, str], ...]:
        """Role and text of the messages before it, without empty ones."""
        roles = {"developer": "system"}
        return tuple(
            (roles.get(message.role, message.role), message.text)
            for message in self.messages[:-1]
            if message.text.strip()
        )
