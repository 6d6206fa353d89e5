"""A command without what terminals, shells and pages put around it: prompts, fences, where its output goes.

PS C:\\> & .\\llama-server.exe `        ./llama-server.exe -m q.gguf -ngl 99
      -m q.gguf -ngl 99 > log.txt
"""

from __future__ import annotations

import re

_MOST = 2000
_TYPESET = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u00a0": " "})


def unpasted(text: str) -> str:
    """A command as a shell has it; a policy, and what is too long to be read, as it is."""
    if not re.search(r"\s", text.strip()) or len(text) > _MOST:
        return text
    for taken_off in (
        _as_typed,
        _unfenced,
        _of_yaml,
        _on_one_line,
        _ungrouped,
        _of_a_posix_shell,
        _without_output,
        _unwrapped,
    ):
        text = taken_off(text)
    return text.strip()


def _as_typed(text: str) -> str:
    """With the quotes, spaces and dashes of a keyboard where a page has set others."""
    text = re.sub(r"(?<!\S)\u2013(?=[a-zA-Z](?:\s|\Z))", "-", text.translate(_TYPESET))
    return re.sub(r"(?<!\S)[\u2013\u2014](?=[a-z])", "--", text).strip()


def _unfenced(text: str) -> str:
    """What a fence of Markdown or quotes stand around."""
    language = r"(?:(?:sh|bash|shell|console|powershell|cmd)\n)?"
    fence = re.fullmatch(rf"(?P<mark>```|`|\"|')(?:{language})(?P<text>.*?)\s*(?P=mark)", text, re.DOTALL)
    return text if fence is None or fence["mark"] in fence["text"] else fence["text"]


def _of_yaml(text: str) -> str:
    """A command as the file of llama-swap has it, on one line, without its quotes and the keys below it."""
    found = re.match(r"\s*(?:-\s+)?[\"']?cmd[\"']?:\s*(?:[|>][+-]?\s*\n)?\s*", text, re.ASCII)
    if found is None:
        return text
    command = re.split(r"\n\s*[\w-]+:(?!\S)", text[found.end() :], maxsplit=1, flags=re.ASCII)[0]
    return _unfenced(re.sub(r"\s*\\?\s*\n\s*", " ", command).strip())


def _on_one_line(text: str) -> str:
    """What follows a prompt, as `(venv) user@box:~$`, `[user@box ~]$`, `PS C:\\>` or `C:\\>`, without the marks at
    which a line goes on.
    """
    posix = r"\S+@\S+?[:~][^\s$#]*[$#]|\[\S+@\S+\s[^\s\]]+\][$#]|PS\s\S*>|[$>#%]"
    prompt = rf"\s*(?:\([\w.-]+\)\s)?(?:{posix})\s+|\s*[A-Z]:\\[^\s>]*>\s*"
    return re.sub(r"\s[`^\\]\s*\n\s*", " ", re.sub(rf"\A(?:{prompt})", "", text, flags=re.ASCII))


def _ungrouped(text: str) -> str:
    """What parentheses run in a shell of its own."""
    return re.sub(r"\A\(\s*(.*\S)\s*\)\Z", r"\1", text, flags=re.DOTALL)


def _of_a_posix_shell(text: str) -> str:
    """What PowerShell and `cmd` write otherwise: variables, a call, and where a program lies."""
    text = re.sub(r"\$env:(\w+)\s*=\s*(\S+?)\s*(?:;|\n)\s*", r"\1=\2 ", text, flags=re.ASCII | re.IGNORECASE)
    text = re.sub(r"\A((?:\w+=\S+\s+)*)&\s+(?=\S)", r"\1", text, flags=re.ASCII)
    quoted, bare = r"\"[^\"\n]*\\([\w-]+\.exe)\"", r"(?<!\S)[\w.:\\-]*\\([\w-]+\.exe)(?=\s|$)"
    return re.sub(rf"{quoted}|{bare}", lambda path: path[1] or path[2], text, flags=re.ASCII | re.IGNORECASE)


def _without_output(text: str) -> str:
    """Without where the output goes, a pipe, `&` at the end and comments, to the ends of their lines, but in quotes."""
    pieces = r""""[^"]*"|'[^']*'|(?P<end>\s(?:\d?>>?\s*&?\S+|\|\s|&\s*$|#\s)[^\n]*)|."""
    return re.sub(pieces, lambda piece: "" if piece["end"] else piece[0], text, flags=re.DOTALL)


def _unwrapped(text: str) -> str:
    """Without the programs that run another one, slower, timed or in a terminal of its own."""
    wrappers = (
        r"(?:\S*/)?nice\s+(?:-n\s*-?\d+\s+|-\d+\s+)?", r"(?:\S*/)time\s+(?:-\w+\s+)*",
        r"ionice\s+(?:-\w+\s*\d*\s+)*", r"screen\s+(?:-\w+\s+)*(?:-S\s*\w+\s+)(?:-\w+\s+)*",
    )  # fmt: skip
    return re.sub(rf"(?<!\S)(?:{'|'.join(wrappers)})(?=\S)", "", text, flags=re.ASCII)
