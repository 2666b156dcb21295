"""Sentence embeddings on onnxruntime: tokens in, unit vectors out. The model is BERT-like, such as all-MiniLM-L6-v2."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy
import numpy.typing

from turnout.core.errors import ContextOverflow
from turnout.tiers.local.onnx.spec import CONTEXT_TOKENS

DIMENSIONS = 384
MAXIMUM_ROWS = 64
MAXIMUM_PADDED_TOKENS = 1024
"""Rows x longest row of one run. Larger runs are no faster (16 rows of 128: 2,100 tokens/s, 8 of 128: 2,900) and take
memory with the square of the length: 64 x 512 needed 8 GB, 2 x 512 stays at 410 MB."""
MAXIMUM_CHARACTERS = 65_536
"""Longer texts are counted up to here: 512 words of at most 100 letters do not reach it."""

Vectors = numpy.typing.NDArray[numpy.float32]


class Tokens(msgspec.Struct, frozen=True):
    """One tokenised text."""

    ids: list[int]
    type_ids: list[int]


class Embedder:
    """A loaded model; its methods block.

    Args:
        model: The ONNX file.
        tokenizer: Its tokenizer.json.
        threads: CPU threads of one run.
    """

    def __init__(self, model: Path, tokenizer: Path, threads: int) -> None:
        if threads == 1:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import onnxruntime
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        # The file says: cut and pad to 128 tokens. Nothing is cut here, and rows are padded per run.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's tokens, the model's own marks included.

        Args:
            texts: What to embed.

        Raises:
            ContextOverflow: One of them is too long; says which.
        """
        encoded = self._tokenizer.encode_batch([text[:MAXIMUM_CHARACTERS] for text in texts])
        for index, (text, one) in enumerate(zip(texts, encoded, strict=True)):
            count, is_cut = len(one.ids), len(text) > MAXIMUM_CHARACTERS
            if count > CONTEXT_TOKENS or is_cut:
                raise ContextOverflow(
                    f"input[{index}] has {'more than ' if is_cut else ''}{count} tokens, "
                    f"this model reads {CONTEXT_TOKENS}: split the text and embed the parts",
                    param=f"input[{index}]",
                    hint="split the text and embed the parts",
                )
        return [Tokens(one.ids, one.type_ids) for one in encoded]

    def embed(self, rows: Sequence[Tokens]) -> Vectors:
        """Return one unit vector for each row, shape (rows, DIMENSIONS).

        The mean over the tokens, as sentence-transformers pools all-MiniLM-L6-v2.

        Args:
            rows: One group of ``group_by_length``.
        """
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids, type_ids, mask = (numpy.zeros(shape, numpy.int64) for _ in range(3))
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            type_ids[index, : len(row.ids)] = row.type_ids
            mask[index, : len(row.ids)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        hidden: Vectors = self._session.run(None, feeds)[0]
        weights = mask[:, :, None].astype(numpy.float32)
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        unit: Vectors = (mean / numpy.maximum(numpy.linalg.norm(mean, axis=1, keepdims=True), 1e-12)).astype("<f4")
        return unit


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return groups of indices, each for one run: like lengths together, shortest first, memory bounded.

    Args:
        lengths: Tokens of each row.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        rows = len(groups[-1]) if groups else 0
        if 0 < rows < MAXIMUM_ROWS and (rows + 1) * lengths[index] <= MAXIMUM_PADDED_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
