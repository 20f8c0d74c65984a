"""The schemas of the pack's nodes, and what is said beside them."""

from __future__ import annotations

import importlib
import json

import nodes as host_nodes
from places import CHECKOUT

PACK = importlib.import_module("bokeh").__name__
SCHEMAS = {
    id: node.GET_SCHEMA()
    for id, node in host_nodes.NODE_CLASS_MAPPINGS.items()
    if node.__module__.startswith(f"{PACK}.")
}
MAIN = json.loads((CHECKOUT / "locales" / "en" / "main.json").read_text(encoding="utf-8"))
# Where a person looks for a node.
SUBCATEGORIES = {"blur", "photo", "results", "semantic", "training"}
NAMES = {id: schema.display_name.partition(" (")[0] for id, schema in SCHEMAS.items()}
