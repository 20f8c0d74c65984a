"""File names with values of the graph in them, filled as the page does for the host's own save nodes.

The page fills them for those alone, and a graph that is queued without it gets none filled.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping

_FIELD = re.compile("%([^%]+)%")
_DATE = re.compile("dd?|MM?|hh?|mm?|ss?|yyyy|yy")
# What the page takes out of values: they fill a part of a path and make no new one.
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f\ud800-\udfff]')
# The person's own slashes in a date make folders, as they do in the page.
_UNSAFE_BUT_SLASH = re.compile(_UNSAFE.pattern.replace("/", "", 1))
_LONGEST_VALUE = 60


def without_fields(prefix: str) -> str:
    """``prefix`` as it may be filled, to look at before the run: dates as they are, something for every value."""
    return _filled(prefix, lambda node, widget: "x")


def fill_prefix(prefix: str, prompt: Mapping[str, dict] | None, workflow: object = None) -> str:
    """``prefix`` with ``%date:yyyy-MM-dd%`` and ``%Node.widget%`` filled.

    A node goes by its "Node name for S&R" in ``workflow``, its class or its title. What nothing is found for stays, and
    so does what the host fills itself (``%year%``, ``%width%``). A value makes no new part of a path.

    Args:
        prompt: the graph in the host's API form, {id: {"class_type": ..., "inputs": {name: value or [id, slot]}}}.
        workflow: the same in the page's form.
    """
    prompt = prompt or {}
    names = list(_names(prompt, workflow))

    def value(node: str, widget: str) -> str | None:
        for name, id in names:
            found = prompt[id]["inputs"].get(widget) if name == node and id in prompt else None
            if isinstance(found, bool):
                return str(found).lower()
            if isinstance(found, float):
                return f"{found:.10g}"
            if isinstance(found, str | int):
                text = _UNSAFE.sub("_", str(found)[:_LONGEST_VALUE])
                return text if text.strip(" .") else "_"
        return None

    return _filled(prefix, value)


def _filled(prefix: str, value: Callable[[str, str], str | None]) -> str:
    def fill(found: re.Match) -> str:
        text = found[1]
        if text.startswith("date:"):
            return _UNSAFE_BUT_SLASH.sub("_", _date(text.removeprefix("date:")))
        parts = text.split(".")
        filled = value(*parts) if len(parts) == 2 else None
        return found[0] if filled is None else filled

    return _FIELD.sub(fill, prefix)


def _names(prompt: Mapping[str, dict], workflow: object) -> Iterator[tuple[str, str]]:
    """What each node goes by, and its id; names of the kind that counts first come first."""
    nodes = workflow.get("nodes") if isinstance(workflow, dict) else None
    nodes = [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
    for node in nodes:
        properties = node.get("properties")
        if isinstance(properties, dict):
            yield properties.get("Node name for S&R"), str(node.get("id"))
    for id, node in prompt.items():
        yield node.get("class_type"), id
    for node in nodes:
        yield node.get("title"), str(node.get("id"))
    for id, node in prompt.items():
        meta = node.get("_meta")
        if isinstance(meta, dict):
            yield meta.get("title"), id


def _date(form: str) -> str:
    now = time.localtime()
    parts = {"d": now.tm_mday, "M": now.tm_mon, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}

    def part(found: re.Match) -> str:
        text = found[0]
        if text[0] == "y":
            return str(now.tm_year)[-len(text) :]
        return str(parts[text[0]]).zfill(len(text))

    return _DATE.sub(part, form)
