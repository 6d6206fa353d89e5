"""Policies of a user's own, as typed: `./mine.py:MyPolicy`, `mine.py:MyPolicy:depth=2+lru:0.1@experts=cpu:4`.

What stands behind the file is a `Policy`, or anything that makes one when it is called, each of its arguments having a
value or a default. `load_own` executes the file; `own_policy` finds what was loaded and nothing else.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from offload.own_policies.own_code import OwnCode, own_code, where_raised
from offload.own_policies.policy_calls import is_foreign
from traces.errors import InvalidInput, unknown_name
from traces.foundation.documents import MAX_NAME

if TYPE_CHECKING:
    from offload.policy import Policy


_NAME = re.compile(r"(?P<path>[^\0\n]+?\.py):(?P<entry>[^\W\d]\w*)", re.UNICODE)
_ARGUMENT = re.compile(r":(?P<name>[^\W\d]\w*)=(?P<value>[^:+@=]*)", re.UNICODE)
_NUMBER = re.compile(r"[+-]?\d{1,18}(?P<real>(\.\d*)?([eE][+-]?\d{1,3})?)", re.ASCII)


class OwnName(NamedTuple):
    """A name taken apart. `rest`: what follows the arguments, such as `+lru:0.1`."""

    path: str
    entry: str
    arguments: tuple[tuple[str, str], ...]
    rest: str

    @property
    def text(self) -> str:
        """As typed, without the rest."""
        return f"{self.path}:{self.entry}" + "".join(f":{name}={value}" for name, value in self.arguments)


class Own(NamedTuple):
    """Where a policy comes from: the code, and the name that made it."""

    code: OwnCode
    name: OwnName


def is_own_name(text: str) -> bool:
    """Whether a user named a file of code."""
    return _NAME.match(text.strip()) is not None


def own_name(text: str, reserved: frozenset[str] = frozenset()) -> OwnName:
    """A name taken apart; words in `reserved` are no arguments. Raises `InvalidInput` for an argument given twice."""
    match = _NAME.match(text)
    if match is None:
        raise InvalidInput(f"policy {text!r} names no FILE.py:NAME")
    arguments, at = [], match.end()
    while (found := _ARGUMENT.match(text, at)) is not None and found["name"] not in reserved:
        arguments.append((found["name"], found["value"]))
        at = found.end()
    names = [name for name, _ in arguments]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"policy {text!r} gives {name} twice: give it once")
    return OwnName(match["path"], match["entry"], tuple(arguments), text[at:])


def load_own(text: str) -> None:
    """Execute the file that `text` names, as it is now. Raises `InvalidInput` or `InvalidFile`."""
    own_code(own_name(text.strip()).path).run()


def own_policy(name: OwnName) -> Policy:
    """The policy that a loaded file has. Raises `InvalidInput` for a file that nobody loaded as it is now, and for what
    makes no policy.
    """
    code = own_code(name.path)
    if code.module is None:
        raise InvalidInput(
            f"policy {name.text}: {name.path} is not loaded as it is now: code is loaded by --policies or --policy, or "
            f"by pregate.load_policy; a table or a YAML file runs none"
        )
    return replace(_made(name, code.module), name=_checked(name), source=Own(code, name))


def _checked(name: OwnName) -> str:
    if len(name.text) > MAX_NAME:
        raise InvalidInput(
            f"policy {name.text}: {len(name.text)} characters, at most {MAX_NAME} are a name: go nearer to the file"
        )
    return name.text


def _made(name: OwnName, module: ModuleType) -> Policy:
    """What the entry is, or makes. Raises `InvalidInput` for anything but a `Policy`."""
    from offload.policy import Policy

    if name.entry not in vars(module):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        made = [key for key, value in vars(module).items() if isinstance(value, Policy)]
        raise unknown_name("policy", name.entry, [key for key in (*own, *made) if not key.startswith("_")], name.path)
    found: Any = getattr(module, name.entry)
    if not isinstance(found, Policy):
        found = _called(name, found)
    elif name.arguments:
        raise InvalidInput(f"policy {name.text}: {name.entry} is a Policy as it stands, leave its arguments out")
    if not isinstance(found, Policy):
        raise InvalidInput(f"policy {name.text}: {name.entry}() returned {found!r}, not a Policy")
    return found


def _called(name: OwnName, make: Any) -> Any:
    if not callable(make):
        raise InvalidInput(f"policy {name.text}: {name.entry} is {make!r}, neither a Policy nor what makes one")
    arguments = {key: _value(value) for key, value in name.arguments}
    try:
        takes = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        takes = []
    keywords = {one.name for one in takes if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    if not any(one.kind is one.VAR_KEYWORD for one in takes):
        for key in arguments:
            if key not in keywords:
                raise unknown_name("argument", key, keywords, f"policy {name.text}")
    missing = [one.name for one in takes if one.default is one.empty and one.kind not in _GATHERING]
    missing = [key for key in missing if key not in arguments]
    if missing:
        raise InvalidInput(f"policy {name.text}: {name.entry} needs {missing[0]}, say {name.text}:{missing[0]}=...")
    try:
        return make(**arguments)
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"policy {name.text}: {where_raised(error, name.path)}") from error


_GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _value(text: str) -> int | float | bool | str:
    """A whole number, a number, true or false, or the text."""
    if text in ("true", "false"):
        return text == "true"
    match = _NUMBER.fullmatch(text)
    return text if match is None else float(text) if match["real"] else int(text)


def rebuilt(source: Own, changed: dict[str, Any]) -> Policy:
    """The policy of another process: made anew by the code that was sent, then changed as there."""
    return replace(_made(source.name, source.code.run()), source=source, **changed)


def changed_fields(policy: Policy) -> dict[str, Any]:
    """What `policy` has otherwise than what its source makes, by field; a function that is made anew is the same."""
    assert policy.source is not None
    made = _made(policy.source.name, policy.source.code.run())
    every = {field.name: getattr(policy, field.name) for field in fields(policy) if field.name != "source"}
    return {name: value for name, value in every.items() if not _same(value, getattr(made, name))}


def _same(one: Any, other: Any) -> bool:
    """Whether two values do the same: equal, or functions of one code that have closed over the same."""
    if one is other or (type(one) is type(other) and not callable(one) and one == other):
        return True
    if not (callable(one) and callable(other)):
        return False
    if not (is_foreign(one) and is_foreign(other)) or type(one) is not type(other):
        return bool(one == other)
    code = getattr(one, "__code__", None)
    if code is None:
        return bool(one == other)
    if code is not getattr(other, "__code__", None) or one.__defaults__ != other.__defaults__:
        return False
    cells = [[cell.cell_contents for cell in function.__closure__ or ()] for function in (one, other)]
    return all(_same(mine, its) for mine, its in zip(*cells, strict=True))
