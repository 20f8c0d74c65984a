"""What the page shows of the nodes: names, tooltips, search words, the English texts and the help pages."""

from __future__ import annotations

import ast
import importlib
import json
import re
from itertools import chain

import nodes as host_nodes
import pytest
from host_server import HostServer
from places import CHECKOUT

PACK = importlib.import_module("bokeh").__name__
SCHEMAS = {
    id: node.GET_SCHEMA()
    for id, node in host_nodes.NODE_CLASS_MAPPINGS.items()
    if node.__module__.startswith(f"{PACK}.")
}
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (CHECKOUT / "web" / "docs").glob("*.md")}
LOCALE = CHECKOUT / "locales" / "en"
NODE_DEFS = json.loads((LOCALE / "nodeDefs.json").read_text(encoding="utf-8"))
MAIN = json.loads((LOCALE / "main.json").read_text(encoding="utf-8"))

# The page compiles every text as a vue-i18n message, where these mean placeholders, links and plurals.
MESSAGE_SYNTAX = set("{}@|")
# Words of the field by which every node is found.
SEARCH_WORDS = {"bokeh", "depth of field", "aperture", "defocus"}
# The longest help page that is read rather than scrolled over.
PAGE_LINES = 70

each_node = pytest.mark.parametrize("id", SCHEMAS)


def sockets(schema) -> list:
    return [*schema.inputs, *(schema.outputs or [])]


def messages() -> list[str]:
    """The texts in the pack's Python files, with ``...`` where a value is filled in."""
    texts = []
    for layer in ("nodes", "attention", "training", "weights", "optics"):
        for file in (CHECKOUT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(part.value if _is_text(part) else "..." for part in node.values))
                elif _is_text(node):
                    texts.append(node.value)
    return [text.lower() for text in texts]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def strings(tree: object) -> list[str]:
    return list(chain.from_iterable(map(strings, tree.values()))) if isinstance(tree, dict) else [tree]


def test_the_pack_registers_nodes():
    assert "BokehBlur" in SCHEMAS


@each_node
def test_ids_category_and_names_follow_the_pack_s_rules(id):
    schema = SCHEMAS[id]
    assert schema.node_id == id
    assert id.startswith("Bokeh")
    assert schema.category == "bokeh"
    assert schema.display_name
    assert "Bokeh" in schema.display_name
    names = [entry.display_name for entry in schema.outputs or []]
    assert all(names)
    assert len(set(names)) == len(names)


@each_node
def test_every_node_and_socket_is_explained_in_sentences(id):
    schema = SCHEMAS[id]
    texts = {"description": schema.description}
    texts |= {f"input {entry.id}": entry.tooltip for entry in schema.inputs}
    texts |= {f"output {entry.display_name}": entry.tooltip for entry in schema.outputs or []}
    unfinished = {place: text for place, text in texts.items() if not text or text[-1] not in ".?!"}
    assert not unfinished


def test_no_two_nodes_are_called_the_same():
    names = [schema.display_name for schema in SCHEMAS.values()]
    assert len(set(names)) == len(names)


@each_node
def test_every_node_is_found_by_the_words_of_the_field_and_by_its_own(id):
    aliases = SCHEMAS[id].search_aliases
    assert set(aliases) > SEARCH_WORDS
    assert len(set(aliases)) == len(aliases)
    others = [set(schema.search_aliases) for other, schema in SCHEMAS.items() if other != id]
    assert set(aliases) - set.intersection(*others)


def test_the_english_texts_are_those_of_the_schemas():
    """A name may differ from the id of an input, but not from a display name; everything else is the schema's."""
    expected = {}
    for id, schema in SCHEMAS.items():
        shown = NODE_DEFS.get(id, {}).get("inputs", {})
        inputs = {}
        for entry in schema.inputs:
            name = entry.display_name or shown.get(entry.id, {}).get("name") or entry.id
            inputs[entry.id] = {"name": name, "tooltip": entry.tooltip}
        expected[id] = {"display_name": schema.display_name, "description": schema.description, "inputs": inputs}
        if schema.outputs:
            expected[id]["outputs"] = {
                str(place): {"name": entry.display_name, "tooltip": entry.tooltip}
                for place, entry in enumerate(schema.outputs)
            }
    assert expected == NODE_DEFS


def test_categories_and_types_have_names_and_no_others():
    assert MAIN["nodeCategories"].keys() == {schema.category for schema in SCHEMAS.values()}
    types = {entry.io_type for schema in SCHEMAS.values() for entry in sockets(schema)}
    assert MAIN["dataTypes"].keys() == {name for name in types if name.startswith("BOKEH_")}


def test_no_text_is_empty_or_message_syntax():
    for text in strings(NODE_DEFS) + strings(MAIN):
        assert text.strip() == text
        assert text
        assert not MESSAGE_SYNTAX & set(text), text


def test_there_is_a_help_page_for_every_node_and_no_other():
    assert PAGES.keys() == SCHEMAS.keys()


@each_node
def test_a_help_page_explains_every_input_and_output_of_the_node(id):
    page, schema = PAGES[id], SCHEMAS[id]
    assert page.startswith(f"# {schema.display_name}\n")
    assert len(page.splitlines()) <= PAGE_LINES
    shown = NODE_DEFS[id]["inputs"]
    assert entries(page, "Inputs") == {entry.id: shown[entry.id]["name"] for entry in schema.inputs}
    assert list(entries(page, "Outputs").values()) == [entry.display_name for entry in schema.outputs or []]


def entries(page: str, section: str) -> dict[str, str]:
    """Id -> shown name of what a section lists: ``- **name**``, ``- **name** (in files `id`)`` or a row of a table."""
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^(?:- \*\*|\| `)(\w+)(?:\*\*|`)(?: \(in files `(\w+)`\))?", text, re.MULTILINE)
    return {id or name: name for name, id in found}


@each_node
def test_a_help_page_points_only_to_nodes_that_exist(id):
    of_pack = {schema.display_name for schema in SCHEMAS.values()}
    bold = re.findall(r"\*\*([^*\n]+)\*\*", PAGES[id])
    assert {name for name in bold if "Bokeh" in name} <= of_pack


@each_node
def test_the_errors_that_a_help_page_quotes_are_the_pack_s(id):
    _, _, section = PAGES[id].partition("\n## If it fails\n")
    quotes = [" ".join(quote.split()) for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", section)]
    known = messages()
    for quote in quotes:
        pieces = [re.escape(piece.strip()) for piece in quote.lower().split("...")]
        assert any(re.search("(?s)" + ".*".join(pieces), text) for text in known), quote


@pytest.mark.server
def test_the_server_hands_out_the_english_texts(server: HostServer):
    assert MAIN["templateWorkflows"]["category"].keys() == server.client.get("/workflow_templates").keys()
    assert server.client.get("/i18n") == {"en": {**MAIN, "nodeDefs": NODE_DEFS}}


@pytest.mark.server
def test_the_server_hands_out_the_help_pages_where_the_page_looks_for_them(server: HostServer):
    for id, node in server.client.object_info().items():
        if id in SCHEMAS:
            folder = node["python_module"].removeprefix("custom_nodes.")
            status, page = server.client.request("GET", f"/extensions/{folder}/docs/{id}.md")
            assert status == 200
            assert page.decode() == PAGES[id]
