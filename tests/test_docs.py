"""What the page shows of the nodes: names, tooltips, search words and the help pages."""

from __future__ import annotations

import ast
import json
import re

import pytest
from host_server import HostServer
from places import CHECKOUT
from schemas import MAIN, NAMES, SCHEMAS, SUBCATEGORIES

PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (CHECKOUT / "web" / "docs").glob("*.md")}
# What a photographer looks for, and a node that must be among the few found.
SEARCHES = {"aperture": "BokehBlur", "depth of field": "BokehLens", "f-stop": "BokehLens", "refocus": "BokehRender"}
# The longest help page that is read rather than scrolled over.
PAGE_LINES = 70


def sockets(schema) -> list:
    return [*schema.inputs, *(schema.outputs or [])]


def messages() -> list[str]:
    """The texts in the pack's Python files, with ``...`` where a value is filled in."""
    texts = []
    for file in CHECKOUT.rglob("*.py"):
        if file.relative_to(CHECKOUT).parts[0] not in ("tests", "tools"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(part.value if _is_text(part) else "..." for part in node.values))
                elif _is_text(node):
                    texts.append(node.value)
    return [text.lower() for text in texts]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_ids_and_names_follow_the_pack_s_rules():
    assert "BokehBlur" in SCHEMAS
    for id, schema in SCHEMAS.items():
        assert schema.node_id == id
        assert id.startswith("Bokeh")
        assert schema.category.removeprefix("bokeh/") in SUBCATEGORIES
        assert "Bokeh" in schema.display_name
        outputs = [entry.display_name for entry in schema.outputs or []]
        assert all(outputs), id
        assert len(set(outputs)) == len(outputs), id
    assert len({schema.display_name for schema in SCHEMAS.values()}) == len(SCHEMAS)


def test_every_node_and_socket_is_explained_in_sentences():
    texts = {id: schema.description for id, schema in SCHEMAS.items()}
    texts |= {(id, entry): entry.tooltip for id, schema in SCHEMAS.items() for entry in sockets(schema)}
    assert not [place for place, text in texts.items() if not text or text[-1] not in ".?!"]


def test_a_node_is_found_by_words_that_are_about_it():
    for id, schema in SCHEMAS.items():
        aliases = schema.search_aliases
        assert len(set(aliases)) == len(aliases), id
        others = [set(schema.search_aliases) for other, schema in SCHEMAS.items() if other != id]
        assert set(aliases) - set.intersection(*others), id
    for words, wanted in SEARCHES.items():
        found = [id for id, schema in SCHEMAS.items() if words in [*schema.search_aliases, schema.display_name.lower()]]
        assert wanted in found
        assert len(found) <= 6


@pytest.mark.server
def test_the_hosts_search_finds_a_node_by_the_words_of_photography(server: HostServer):
    """Newer pages search names and the words of the schema, older ones names alone."""
    nodes = server.client.object_info()
    for words, wanted in SEARCHES.items():
        node = nodes[wanted]
        assert words in " ".join([node["display_name"], *(node.get("search_aliases") or [])]).lower()


def test_the_pack_s_own_types_have_names_and_no_others():
    types = {entry.io_type for schema in SCHEMAS.values() for entry in sockets(schema)}
    assert MAIN["dataTypes"].keys() == {name for name in types if name.startswith("BOKEH_")}


def test_there_is_a_help_page_for_every_node_and_no_other():
    assert PAGES.keys() == SCHEMAS.keys()
    for id, page in PAGES.items():
        assert page.startswith(f"# {NAMES[id]}\n")
        assert len(page.splitlines()) <= PAGE_LINES, id


def test_a_help_page_does_not_repeat_the_tooltips():
    for id, page in PAGES.items():
        assert not re.search("^## (Inputs|Outputs)$", page, re.MULTILINE), id
        assert not [entry for entry in sockets(SCHEMAS[id]) if entry.tooltip in " ".join(page.split())], id


def test_help_pages_point_only_to_nodes_that_exist():
    bold = re.findall(r"\*\*([^*\n]+)\*\*", "\n".join(PAGES.values()))
    assert {name for name in bold if "Bokeh" in name} <= set(NAMES.values())


def test_the_errors_that_help_pages_quote_are_the_pack_s():
    known = messages()
    for id, page in PAGES.items():
        _, _, section = page.partition("\n## If it fails\n")
        for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", section):
            pieces = [re.escape(piece.strip()) for piece in " ".join(quote.lower().split()).split("...")]
            assert any(re.search("(?s)" + ".*".join(pieces), text) for text in known), (id, quote)


def test_blueprints_know_every_socket_of_the_nodes_in_them():
    for file in (CHECKOUT / "subgraphs").glob("*.json"):
        (subgraph,) = json.loads(file.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
        for node in subgraph["nodes"]:
            if schema := SCHEMAS.get(node["type"]):
                assert {entry["name"] for entry in node["inputs"]} == {entry.id for entry in schema.inputs}, file.name
                assert [entry["name"] for entry in node["outputs"]] == [entry.display_name for entry in schema.outputs]


def test_the_readme_is_read_in_a_few_minutes():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    assert "A demonstration at 128 px" in text
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (CHECKOUT / link).is_file(), link


def test_the_page_loads_few_scripts():
    """Unminified, all together: at most 120 kB."""
    assert sum(file.stat().st_size for file in (CHECKOUT / "web").rglob("*.js")) <= 120_000


@pytest.mark.server
def test_the_server_hands_out_the_names_of_types_and_templates(server: HostServer):
    assert MAIN["templateWorkflows"]["category"].keys() == server.client.get("/workflow_templates").keys()
    assert server.client.get("/i18n")["en"] == MAIN


@pytest.mark.server
def test_the_server_hands_out_the_help_pages_where_the_page_looks_for_them(server: HostServer):
    for id, node in server.client.object_info().items():
        if id in SCHEMAS:
            folder = node["python_module"].removeprefix("custom_nodes.")
            status, page = server.client.request("GET", f"/extensions/{folder}/docs/{id}.md")
            assert status == 200
            assert page.decode() == PAGES[id]
