"""The pack in Chinese and Japanese: nothing missing, nothing left over, nothing translated from an older text."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from host_server import HostServer
from places import CHECKOUT
from schemas import MAIN, NAMES, SCHEMAS, SUBCATEGORIES

LANGUAGES = ("zh", "ja")
# Place of each text -> the text that was translated, as a hash.
RECORD = CHECKOUT / "tests" / "data" / "translated.json"
# The page reads these as signs of its own in the texts of nodes.
SIGNS = re.compile(r"[{}@|]")

each_language = pytest.mark.parametrize("language", LANGUAGES)


def english() -> dict[str, str]:
    """The texts of all nodes: place -> text."""
    texts = {}
    for id, schema in SCHEMAS.items():
        texts |= {f"{id}.display_name": NAMES[id], f"{id}.description": schema.description}
        for entry in schema.inputs:
            texts |= {f"{id}.inputs.{entry.id}.name": entry.id, f"{id}.inputs.{entry.id}.tooltip": entry.tooltip}
        for number, entry in enumerate(schema.outputs or []):
            name = f"{id}.outputs.{number}"
            texts |= {f"{name}.name": entry.display_name, f"{name}.tooltip": entry.tooltip}
    return texts


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((CHECKOUT / "locales" / language / name).read_text(encoding="utf-8"))


def flat(nested: dict[str, Any], before: str = "") -> dict[str, str]:
    texts = {}
    for name, value in nested.items():
        texts |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return texts


def sentences() -> set[str]:
    """What the page's scripts say: the first argument of every say(...)."""
    said = set()
    for file in (CHECKOUT / "web").rglob("*.js"):
        calls = re.findall(r'(?<![#\w.])say\(\s*(?:"([^"]+)"|(\S+))', file.read_text(encoding="utf-8"))
        assert not [other for _, other in calls if other and file.name != "words.js"], f"{file.name}: say() needs text"
        said |= {text for text, _ in calls if text}
    return said


@each_language
def test_every_text_of_the_nodes_is_there_and_no_other(language: str):
    translated = flat(read(language, "nodeDefs.json"))
    assert translated.keys() - english().keys() == set(), "left over"
    assert english().keys() - translated.keys() == set(), "missing"
    assert not [place for place, text in translated.items() if not text.strip() or SIGNS.search(text)]


def test_no_text_has_changed_since_it_was_translated():
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    now = {place: hashlib.sha256(text.encode()).hexdigest()[:8] for place, text in english().items()}
    changed = {place: now.get(place) for place in {**recorded, **now} if recorded.get(place) != now.get(place)}
    assert not changed, (
        f"Translate {', '.join(sorted(changed))} in locales/zh and locales/ja, then write to {RECORD.name} (a null "
        f"takes its line away): {json.dumps(changed, indent=0, sort_keys=True)}"
    )


@each_language
def test_every_sentence_of_the_page_is_there_and_no_other(language: str):
    main = read(language, "main.json")
    assert main["bokeh"].keys() - sentences() == set(), "left over"
    assert sentences() - main["bokeh"].keys() == set(), "missing"
    for text, translated in main["bokeh"].items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", translated)), text


@each_language
def test_the_names_of_types_categories_and_templates_are_there_and_no_others(language: str):
    main = read(language, "main.json")
    assert main["dataTypes"].keys() == MAIN["dataTypes"].keys()
    assert main["nodeCategories"].keys() == {"bokeh", *SUBCATEGORIES}
    assert main["templateWorkflows"]["category"].keys() == MAIN["templateWorkflows"]["category"].keys()


@pytest.mark.server
def test_the_server_hands_out_all_languages(server: HostServer):
    translated = {name: {**read(name, "main.json"), "nodeDefs": read(name, "nodeDefs.json")} for name in LANGUAGES}
    assert server.client.get("/i18n") == {"en": MAIN, **translated}
