"""Models whose memory is known before they are loaded: weights by quantisation, KV cache, and the rest.

The figures and where each comes from are in ``catalogue.yaml``. Nothing here looks at a disk or a card.
"""

from __future__ import annotations

import functools
from importlib import resources

import msgspec

from turnout.config.document import parse_document
from turnout.core.memory import GIB

FILE = "catalogue.yaml"
CACHE_BYTES_PER_VALUE = 2
PLAIN_BYTES = 2.0
GROUP = 128
"""Numbers that share a scale in AWQ and GPTQ, where nobody says otherwise."""

BYTES_PER_NUMBER = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    # 4 bits, and a 16-bit scale and a 4-bit zero for each group (arXiv 2306.00978)
    "awq": (4 + (16 + 4) / GROUP) / 8,
    "gptq": (4 + (16 + 4) / GROUP) / 8,
    # 4 bits, and 0.127 bits of doubly quantised constants (QLoRA, arXiv 2305.14314, section 3)
    "bitsandbytes": (4 + 0.127) / 8,
}
"""By the word that vLLM has for it."""


class Attention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a model decides how much cache a token takes.

    Attributes:
        layers: That keep something of each token.
        kv_heads: Of each layer.
        head_size: Numbers of one key or value.
        latent: Numbers that a layer keeps instead, with multi-head latent attention.
    """

    layers: int
    kv_heads: int = 0
    head_size: int = 0
    latent: int = 0

    @property
    def values_per_token(self) -> int:
        """Numbers kept of one token."""
        return self.layers * (self.latent or 2 * self.kv_heads * self.head_size)


class KnownModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue.

    Attributes:
        title: For people.
        sources: Where its weights are, each with its quantisation.
        numbers: Thousand millions that quantisation makes smaller.
        plain_numbers: Thousand millions that stay at 16 bits.
        attention: None where there is no cache.
        state_mib_per_slot: What recurrent layers keep of each running request.
        overhead_gib: CUDA context, graphs, activations.
        load_seconds: First guess at a start from cold.
    """

    title: str
    sources: dict[str, str]
    numbers: float
    plain_numbers: float = 0.0
    attention: Attention | None = None
    state_mib_per_slot: float = 0.0
    overhead_gib: float
    load_seconds: float

    def weights_bytes(self, quantisation: str) -> int:
        """Return what the weights take.

        Args:
            quantisation: One of ``BYTES_PER_NUMBER``.
        """
        return round((self.numbers * BYTES_PER_NUMBER[quantisation] + self.plain_numbers * PLAIN_BYTES) * 1e9)

    @property
    def cache_bytes_per_token(self) -> int:
        """What the cache takes for one token, at 16 bits."""
        return self.attention.values_per_token * CACHE_BYTES_PER_VALUE if self.attention else 0

    def rest_bytes(self, slots: int) -> int:
        """Return what it takes beside weights and cache.

        Args:
            slots: Requests answered at once.
        """
        return round(self.overhead_gib * GIB + self.state_mib_per_slot * slots * (1 << 20))


@functools.cache
def catalogue() -> dict[str, KnownModel]:
    """Return every known model by its key."""
    text = (resources.files("turnout.config") / FILE).read_text(encoding="utf-8")
    return msgspec.convert(parse_document(text, FILE).values, dict[str, KnownModel])


def find_known(source: str) -> tuple[KnownModel, str] | None:
    """Return the model of a source and the quantisation of its weights there; None if it is not in the catalogue.

    Args:
        source: As under ``models``: ``hf:owner/name``.
    """
    for model in catalogue().values():
        if source in model.sources:
            return model, model.sources[source]
    return None
