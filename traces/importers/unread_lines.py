"""Lines that name layers and experts in a form that is not read: what they are, and what to write in their place."""

from __future__ import annotations

import re

_WRITE = "write its routing as CSV (token,layer,experts: 0,3,7 12) or as JSON lines"
_FORMS = (
    (r"ffn_moe_(?:topk|argsort|logits|probs)-\d+.* = ", "values that llama.cpp printed, without those in the middle"),
    (r"\s*\|.*layer.*\|\s*", "a table in Markdown"),
    (r"\s*(?:- )?(?:layer|token|expert)\w*:\s*[\d\[].{0,20}", "YAML"),
    (r"[^{\[]\S*\s+.*\{.*\"layer\w*\":.*", "JSON behind the words of a log"),
    (r"[^{].*\b(?:layer|blk|block|tok(?:en)?)\w*\b\W{0,3}\d.*", "lines of a log"),
    (r"\s*tensor\(\[.*", "tensors as Python prints them"),
    (r"(?=.*\blayer)(?=.*\btoken)[\w ]+$", "columns parted by blanks"),
)
_N_LINES, _N_CHARACTERS = 50, 400


def way_out(text: str) -> str | None:
    """What the first line of one of these forms is, and the way out; None of a text without any."""
    lines = [line[:_N_CHARACTERS] for line in text.splitlines()[:_N_LINES]]
    found = (name for form, name in _FORMS for line in lines if re.match(form, line, re.ASCII | re.IGNORECASE))
    name = next(found, None)
    return None if name is None else f"{name}: {_WRITE}"
