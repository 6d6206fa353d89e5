"""A command without what terminals, shells and pages put around it: prompts, fences, where its output goes.

PS C:\\> & .\\llama-server.exe `        ./llama-server.exe -m q.gguf -ngl 99
      -m q.gguf -ngl 99 > log.txt
"""

from __future__ import annotations

import re

_MOST = 2000
_FENCE = re.compile(
    r"(?P<mark>```|`|\"|')(?:(?:sh|bash|shell|console|powershell|cmd)\n)?(?P<text>.*?)\s*(?P=mark)", re.DOTALL
)
_PROMPT = re.compile(r"\s*(?:\S+@\S+?[:~][^\s$#]*[$#]|PS\s\S*>|[$>#%])\s+|\s*[A-Z]:\\[^\s>]*>\s*", re.ASCII)
_CONTINUED = re.compile(r"\s[`^\\]\s*\n\s*")
_OF_POWERSHELL = re.compile(r"\$env:(\w+)\s*=\s*(\S+?)\s*(?:;|\n)\s*", re.ASCII | re.IGNORECASE)
_CALLED = re.compile(r"^(?P<before>(?:\w+=\S+\s+)*)&\s+(?=\S)", re.ASCII)
_WINDOWS = re.compile(r"\"[^\"\n]*\\([\w-]+\.exe)\"|(?<!\S)[\w.:\\-]*\\([\w-]+\.exe)(?=\s|$)", re.ASCII | re.IGNORECASE)
_PIECES = re.compile(r""""[^"]*"|'[^']*'|(?P<end>\s(?:\d?>>?\s*&?\S+|\|\s|&\s*$|#\s)[^\n]*)|.""", re.DOTALL)
_SUBSHELL = re.compile(r"\(\s*(.*\S)\s*\)", re.DOTALL)
_NICE = re.compile(
    r"(?<!\S)(?:(?:\S*/)?nice\s+(?:-n\s*-?\d+\s+|-\d+\s+)?|(?:\S*/)time\s+(?:-\w+\s+)*|ionice\s+(?:-\w+\s*\d*\s+)*"
    r"|screen\s+(?:-\w+\s+)*(?:-S\s*\w+\s+)(?:-\w+\s+)*)(?=\S)",
    re.ASCII,
)
_TYPESET = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u00a0": " "})
_DASH = re.compile(r"(?<!\S)[\u2013\u2014](?=[a-z])")


def unpasted(text: str) -> str:
    """A command as a shell has it; a policy, and what is too long to be read, as it is."""
    if not re.search(r"\s", text.strip()) or len(text) > _MOST:
        return text
    text = _DASH.sub("--", text.translate(_TYPESET)).strip()
    if (fenced := _FENCE.fullmatch(text)) is not None and fenced["mark"] not in fenced["text"]:
        text = fenced["text"]
    text = _CONTINUED.sub(" ", _PROMPT.sub("", text, count=1) if _PROMPT.match(text) else text)
    if (inner := _SUBSHELL.fullmatch(text)) is not None:
        text = inner[1]
    text = _CALLED.sub(r"\g<before>", _OF_POWERSHELL.sub(r"\1=\2 ", text))
    text = _WINDOWS.sub(lambda path: path[1] or path[2], text)
    text = "".join("" if piece["end"] else piece[0] for piece in _PIECES.finditer(text))
    return _NICE.sub("", text).strip()
