"""The requests that the simulated worker understands: OpenAI's shapes, as far as they change the answer."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from turnout.core.errors import InvalidRequest

BYTES_PER_TOKEN = 4


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and plain completions share; fields that are not listed are ignored."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    """As in vLLM and llama.cpp: the answer is exactly ``max_tokens`` long."""

    def token_limit(self) -> int | None:
        """Return the most tokens that the caller wants, or None."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self) -> None:
        """Raise InvalidRequest for what a type cannot say."""
        if self.n not in (None, 1):
            raise InvalidRequest(f"n has to be 1, not {self.n!r}", param="n")
        limit = self.token_limit()
        if limit is not None and limit < 1:
            raise InvalidRequest(f"max_tokens has to be 1 or more, not {limit!r}", param="max_tokens")


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return the text of the message; pictures and sounds count as nothing."""
        if isinstance(self.content, list):
            return "\n".join(part["text"] for part in self.content if isinstance(part.get("text"), str))
        return self.content or ""


class Function(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    function: Function
    type: str = "function"


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    def prompt(self) -> str:
        """Return the whole conversation as one text."""
        return "\n".join(message.text() for message in self.messages)

    def called_function(self) -> Function | None:
        """Return the function that the answer has to call, or None for an answer in words.

        Raises:
            InvalidRequest: ``tool_choice`` names a function that is not among the tools.
        """
        if not self.tools or self.tool_choice == "none":
            return None
        if isinstance(self.tool_choice, dict):
            wanted = self.tool_choice.get("function", {}).get("name")
            for tool in self.tools:
                if tool.function.name == wanted:
                    return tool.function
            raise InvalidRequest(f"tool_choice names {wanted!r}, which is not among the tools", param="tool_choice")
        # Only a *last* message of the user asks: after the tool's result the answer has to be words, or an agent that
        # talks with this worker would never end.
        last = self.messages[-1] if self.messages else None
        asked = last is not None and last.role == "user" and "call the tool" in last.text().lower()
        return self.tools[0].function if asked or self.tool_choice == "required" else None

    def check(self) -> None:
        """Raise InvalidRequest for what a type cannot say."""
        super().check()
        if not self.messages:
            raise InvalidRequest("messages must not be empty", param="messages")


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    prompt: str | list[str | int]

    def text(self) -> str:
        """Return the prompt as one text; token ids become words of their own."""
        return self.prompt if isinstance(self.prompt, str) else " ".join(map(str, self.prompt))


class EmbeddingRequest(msgspec.Struct, frozen=True):
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """Return the texts to embed; a list of token ids is one text.

        Raises:
            InvalidRequest: There is none, or ids and texts are mixed.
        """
        if isinstance(self.input, str):
            return [self.input]
        if self.input and all(isinstance(item, int) for item in self.input):
            return [" ".join(map(str, self.input))]
        texts = [" ".join(map(str, item)) if isinstance(item, list) else item for item in self.input]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("input has to be a text, a list of texts or a list of token ids", param="input")
        return [str(text) for text in texts]


def count_tokens(text: str) -> int:
    """Return how many tokens a text has: one for every four bytes of UTF-8, rounded up.

    Args:
        text: Any text.
    """
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
