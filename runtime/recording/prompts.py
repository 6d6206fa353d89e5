"""Prompts from a file: a line a prompt, or JSON lines of text or of token ids; only a digest of them is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from traces.errors import InvalidFile
from traces.foundation.documents import read_text

_MOST_PROMPTS = 100_000
_MOST_TOKENS = 1 << 20
"""Longest prompt: above any published context."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of each prompt, and the SHA-256 of the file that they are from, 16 hex digits."""

    ids: tuple[tuple[int, ...], ...]
    digest: str


def read_prompts(path: Path, tokenize: Callable[[str], list[int]] | None, vocab_size: int) -> Prompts:
    """The prompts of `path`: `.jsonl` has objects with `prompt` (text) or `ids` (token ids), other files a text a line.

    Empty lines are left out. Raises `InvalidFile` for a line that is neither, ids outside the vocabulary, no prompt at
    all, or text where there is no tokenizer (`tokenize` None).
    """
    text = read_text(path, 64 << 20)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        ids = _ids(path, number, line, tokenize)
        if not ids or len(ids) > _MOST_TOKENS:
            raise InvalidFile(f"{path} line {number}: {len(ids)} tokens, 1 to {_MOST_TOKENS} are taken")
        wrong = next((i for i in ids if type(i) is not int or not 0 <= i < vocab_size), None)
        if wrong is not None:
            raise InvalidFile(f"{path} line {number}: token {str(wrong)[:40]} is none of the {vocab_size} of the model")
        found.append(tuple(ids))
        if len(found) > _MOST_PROMPTS:
            raise InvalidFile(f"{path}: more than {_MOST_PROMPTS} prompts: split the file")
    if not found:
        raise InvalidFile(f"{path}: no prompt in it")
    return Prompts(tuple(found), hashlib.sha256(text.encode()).hexdigest()[:16])


def _ids(path: Path, number: int, line: str, tokenize: Callable[[str], list[int]] | None) -> list[int]:
    prompt = line
    if path.suffix.lower() == ".jsonl":
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidFile(f"{path} line {number}: not JSON") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("ids", entry.get("prompt")), list | str):
            raise InvalidFile(f"{path} line {number}: an object with prompt (text) or ids (token ids) is wanted")
        if "ids" in entry:
            if not isinstance(entry["ids"], list):
                raise InvalidFile(f"{path} line {number}: ids is not a list of token ids")
            return entry["ids"]
        prompt = str(entry["prompt"])
    if tokenize is None:
        raise InvalidFile(f"{path} line {number}: text, and the model has no tokenizer: give JSON lines of ids")
    return tokenize(prompt)
