"""Draw docs/house.png, the wings of rlrat and what each imports, from the source:

python -m docs.house
"""

from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from tests.import_graph import imports

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "house.png"
# Each wing's place: column and row, the rows as the layers; what it imports lies below.
PLACES = {
    "agents": (0.4, 8), "cli": (1.5, 8), "scripts": (2.6, 8),
    "sweeps": (1.4, 7), "reports": (2.9, 7),
    "runs": (1.25, 6),
    "evaluation": (2.4, 5),
    "networks": (0.0, 4), "approximation": (3.1, 4),
    "datasets": (1.6, 3),
    "environments": (2.5, 2),
    "updates": (1.0, 1),
    "rational": (0.1, 0), "base": (2.1, 0),
}  # fmt: skip
BASE = ("errors", "console", "json_files")
USERS = ("agents", "scripts")
COLOURS = {name: f"C{place}" for place, name in enumerate(name for name in PLACES if name not in USERS)}


def count_arrows() -> dict[tuple[str, str], int]:
    """Count the modules of one wing that import something of another, by both names."""
    importers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for folder in ("rlrat", *USERS):
        for module, used in imports(ROOT / folder).items():
            for name in used:
                pair = _wing(module), _wing(name)
                if None not in pair and pair[0] != pair[1]:
                    importers[pair].add(module)
    return {pair: len(modules) for pair, modules in sorted(importers.items())}


def _wing(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in USERS:
        return parts[0]
    if parts[0] != "rlrat" or len(parts) < 2 or parts[1] == "activations":  # its names are those of other wings
        return None
    return "base" if parts[1] in BASE else parts[1]


def describe() -> str:
    """Say which wing imports which; the picture has it in its file, so that a test finds one that is out of date."""
    return " ".join(f"{importer}>{used}" for importer, used in count_arrows())


def draw(path: Path) -> None:
    """Write the picture; an arrow is the wider, the more modules import."""
    arrows = count_arrows()
    unknown = {name for pair in arrows for name in pair} - PLACES.keys()
    if unknown:
        raise ValueError(f"no place in the picture for {', '.join(sorted(unknown))}")
    shown = {pair: count for pair, count in arrows.items() if pair[1] != "base"}  # which nearly every module imports
    figure = Figure(figsize=(9, 10), dpi=110)
    axes = figure.subplots()
    boxes = {}
    for name, (x, y) in PLACES.items():
        text = f"{', '.join(BASE)}\n(for all but rational and approximation)" if name == "base" else name
        boxes[name] = axes.text(
            x, y, text, ha="center", va="center", fontsize=12, zorder=3,
            bbox={
                "boxstyle": "round,pad=0.45", "linewidth": 2, "facecolor": "white",
                "edgecolor": COLOURS.get(name, "0.35"),
            },
        )  # fmt: skip
    axes.set(xlim=(-0.5, 3.4), ylim=(-0.6, 8.6))
    axes.axis("off")
    axes.set_title(f"Who imports whom: {len(shown)} arrows between {len(PLACES) - 1} wings", fontsize=13)
    for (importer, used), count in shown.items():
        (x, y), (to_x, to_y) = PLACES[importer], PLACES[used]
        bend = 0.05 * (y - to_y - 1)
        axes.add_patch(
            FancyArrowPatch(
                (x, y), (to_x, to_y), patchA=boxes[importer].get_bbox_patch(), patchB=boxes[used].get_bbox_patch(),
                arrowstyle="-|>", mutation_scale=12, connectionstyle=f"arc3,rad={bend}",
                color=COLOURS[used], linewidth=0.6 + 0.25 * min(count, 8), alpha=0.8,
                zorder=4,  # drawn after the boxes, at whose borders they end
            )
        )  # fmt: skip
    figure.savefig(path, bbox_inches="tight", metadata={"Description": describe()})


if __name__ == "__main__":
    draw(PICTURE)
