"""Draw docs/house.png, the wings of rlrat and what each imports, from the source:

python -m docs.house
"""

from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot as plt

from tests.import_graph import imports

ROOT = Path(__file__).parents[1]
# Each wing's place: column and row, the rows as the layers; what it imports lies below.
PLACES = {
    "agents": (0.3, 8), "scripts": (2.3, 8),
    "sweeps": (1.6, 7), "reports": (2.9, 7),
    "runs": (1.1, 6),
    "evaluation": (2.4, 5),
    "networks": (0.1, 4),
    "datasets": (1.4, 3),
    "environments": (2.3, 2),
    "updates": (0.7, 1),
    "rational": (0.0, 0), "base": (1.9, 0),
}  # fmt: skip
BASE = ("errors", "console", "json_files")
USERS = ("agents", "scripts")
WIDTH, HEIGHT = 0.72, 0.5


def count_arrows() -> dict[tuple[str, str], int]:
    """How many modules of one wing import something of another, by both names."""
    importers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for folder in ("rlrat", *USERS):
        for module, used in imports(ROOT / folder).items():
            for name in used:
                pair = _wing(module), _wing(name)
                if None not in pair and pair[0] != pair[1]:
                    importers[pair].add(module)
    return {pair: len(modules) for pair, modules in importers.items()}


def _wing(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in USERS:
        return parts[0]
    if parts[0] != "rlrat" or len(parts) < 2 or parts[1] == "activations":  # its names are those of other wings
        return None
    return "base" if parts[1] in BASE else parts[1]


def draw(path: Path) -> None:
    """Write the picture; an arrow is the wider, the more modules import."""
    arrows = count_arrows()
    unknown = {name for pair in arrows for name in pair} - PLACES.keys()
    if unknown:
        raise ValueError(f"no place in the picture for {', '.join(sorted(unknown))}")
    figure, axes = plt.subplots(figsize=(9, 10))
    for (importer, used), count in sorted(arrows.items()):
        if used == "base":  # nearly every module's
            continue
        color = plt.cm.tab10(list(PLACES).index(used) % 10)
        (x, y), (to_x, to_y) = PLACES[importer], PLACES[used]
        axes.annotate(
            "",
            xy=(to_x + 0.12 * (x - to_x), to_y + HEIGHT / 2),
            xytext=(x, y - HEIGHT / 2),
            arrowprops={
                "arrowstyle": "-|>", "lw": 0.6 + 0.25 * min(count, 8), "color": color,
                "alpha": 0.75, "connectionstyle": f"arc3,rad={0.06 * (y - to_y - 1)}",
                "shrinkA": 0, "shrinkB": 0,
            },
        )  # fmt: skip
    for name, (x, y) in PLACES.items():
        text = f"{', '.join(BASE)}\n(for all but rational)" if name == "base" else name
        color = plt.cm.tab10(list(PLACES).index(name) % 10) if name not in USERS else "0.35"
        axes.text(
            x, y, text, ha="center", va="center", fontsize=12, zorder=3,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": color, "linewidth": 2},
        )  # fmt: skip
    axes.set_xlim(-0.4, 3.3)
    axes.set_ylim(-0.6, 8.6)
    axes.axis("off")
    axes.set_title(f"Who imports whom: {len(arrows)} arrows between {len(PLACES)} parts", fontsize=13)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    draw(ROOT / "docs" / "house.png")
