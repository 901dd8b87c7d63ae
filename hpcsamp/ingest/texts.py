"""Encode a column of texts as token ids and a mask with a HuggingFace tokenizer on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.encoding import Encoded
from hpcsamp.ingest.table import Role

IDS, MASK = "input_ids", "attention_mask"
"""Names of the inputs, as networks of the transformers library expect them."""


@dataclass
class Text(Encoded):
    """A column of texts as token ids, padded at the end to one length.

    Attributes
    ----------
    tokenizer
        Tokenizer of the transformers library.
    digest
        Digest of its files.
    length
        Tokens of every item: the requested number, or that of the longest text.
    asked
        Whether the length was requested, so that longer texts are truncated.
    cut
        Number of truncated texts.
    """

    tokenizer: Any = None
    digest: str = ""
    length: int = 0
    asked: bool = False
    cut: int = 0
    role: ClassVar[Role] = "text"
    _last: tuple[Any, Any] = field(default=(None, None), repr=False)

    @property
    def names(self) -> list[str]:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return [f"{self.column}[{i}]" for i in range(self.length)]

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return np.dtype("i8")

    def look(self, values: np.ndarray) -> None:
        """Find the longest text or, if a length was requested, count the truncated texts."""
        lengths = [len(ids) for ids in self._ids(values)]
        if self.asked:
            self.cut += sum(n > self.length for n in lengths)
        else:
            self.length = max(self.length, *lengths, 1)

    def _ids(self, values: np.ndarray) -> list[list[int]]:
        if not len(values):
            return []
        return list(self.tokenizer([str(v) for v in values.tolist()])["input_ids"])

    def both(self, values: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts as ids and mask, int64 of shape ``(n, length)``; the mask is 1 for tokens.

        Raises
        ------
        DataError
            If a text is missing.
        """
        if self._last[0] is not values:
            if self.missing(values).any():
                raise DataError(f"{where}, column {self.column!r}: a text is missing")
            pad = self.tokenizer.pad_token_id
            ids = np.full((len(values), self.length), 0 if pad is None else pad, np.int64)
            mask = np.zeros((len(values), self.length), np.int64)
            encoded = self.tokenizer(
                [str(v) for v in values.tolist()], truncation=True, max_length=self.length
            )
            for row, tokens in enumerate(encoded["input_ids"]):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            self._last = (values, (ids, mask))
        found: tuple[np.ndarray, np.ndarray] = self._last[1]
        return found

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return self.both(values, where)[0]

    def describe(self) -> dict[str, Any]:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return {"column": self.column, "tokens": self.length, "tokenizer": self.digest}


@dataclass
class TextMask(Encoded):
    """Mask of a text: 1 where its ids are tokens, 0 where they are padding.

    Attributes
    ----------
    text
        The text.
    """

    text: Text = field(default_factory=lambda: Text(""))

    @property
    def names(self) -> list[str]:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return self.text.names

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return np.dtype("i8")

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return self.text.both(values, where)[1]

    def describe(self) -> dict[str, Any]:
        """See :class:`~hpcsamp.ingest.encoding.Encoded`."""
        return self.text.describe()


def read_tokenizer(column: str, folder: Path, tokens: int | None) -> Text:
    """Load the tokenizer of a column of texts from a folder.

    Raises
    ------
    UsageError
        If there is no tokenizer, or transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UsageError("--tokenizer needs transformers: pip install hpcsamp[networks]") from None
    if not folder.is_dir():
        raise UsageError(f"--tokenizer {folder}: no such folder; give one with tokenizer.json")
    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as e:  # it raises many kinds of errors for damaged files
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UsageError(f"--tokenizer {folder}: cannot be read: {reason}") from None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name.startswith(("tokenizer", "vocab", "merges", "special",
                                                    "added", "spiece")):  # fmt: skip
            digest.update(file.name.encode() + file.read_bytes())
    return Text(column, found, digest.hexdigest(), tokens or 0, tokens is not None)
