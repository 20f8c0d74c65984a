"""Where the nodes of a graph lie in the page, as it is drawn: by the canvas, and by the page's own nodes."""

from __future__ import annotations

from typing import NamedTuple

from page import HostPage

# In graph units: boxes of nodes with their titles, and of groups, as the page draws them.
_BOXES = """
(vue) => {
  const { graph, canvas } = window.app, { scale, offset } = canvas.ds;
  const { left, top } = canvas.canvas.getBoundingClientRect();
  const box = (name, [x, y], [width, height]) => ({ name, x, y, width, height });
  const nodes = graph.nodes.map((node) => {
    const drawn = vue && document.querySelector(`[data-node-id="${node.id}"]`);
    const name = `${node.id} ${node.title}`;
    if (!drawn) return box(name, node.boundingRect, [...node.boundingRect].slice(2));
    const at = drawn.getBoundingClientRect();
    const place = [(at.left - left) / scale - offset[0], (at.top - top) / scale - offset[1]];
    return box(name, place, [at.width / scale, at.height / scale]);
  });
  return { nodes, groups: graph.groups.map((group) => box(group.title, group.pos, group.size)) };
}
"""


class Box(NamedTuple):
    name: str
    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def holds(self, other: Box, tolerance: float = 1) -> bool:
        return (
            self.x <= other.x + tolerance
            and self.y <= other.y + tolerance
            and other.x + other.width <= self.x + self.width + tolerance
            and other.y + other.height <= self.y + self.height + tolerance
        )


def boxes(page: HostPage, vue: bool) -> tuple[list[Box], list[Box]]:
    """The boxes of the nodes and of the groups, in graph units."""
    found = page.page.evaluate(_BOXES, vue)
    return tuple([Box(**box) for box in found[kind]] for kind in ("nodes", "groups"))


def boxes_at_rest(page: HostPage, vue: bool) -> tuple[list[Box], list[Box]]:
    """`boxes` once the page has stopped moving them."""
    before = None
    for _ in range(50):
        page.rest(400)
        found = boxes(page, vue)
        if found == before:
            return found
        before = found
    raise AssertionError("the page goes on moving nodes")


def faults(nodes: list[Box], groups: list[Box]) -> list[str]:
    """What lies badly: nodes over each other, and nodes that leave the group they are in."""
    found = [
        f"{node.name} lies over {other.name}"
        for number, node in enumerate(nodes)
        for other in nodes[number + 1 :]
        if node.overlaps(other)
    ]
    for node in nodes:
        found += [
            f"{node.name} leaves {group.name}" for group in groups if group.overlaps(node) and not group.holds(node)
        ]
    return found
