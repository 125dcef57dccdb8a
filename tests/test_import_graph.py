import pytest

from tests.import_graph import find_circle, imports


@pytest.fixture
def package(tmp_path):
    """house, with two wings."""
    for path, text in {
        "house/__init__.py": "",
        "house/errors.py": "import json, os.path\n",
        "house/east/__init__.py": "from .door import Door\n",
        "house/east/door.py": "from house import errors\nfrom ..errors import Error\n",
        "house/west/__init__.py": "",
        "house/west/room.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import window\n"
            "def late():\n    import house.east.door\n    from house.east import Door\n"
        ),
        "house/west/window.py": "from .room import *\n",
        "house/west/roof.py": (
            "import importlib\nfrom importlib import import_module\n"
            "importlib.import_module('house.east.door')\nimport_module(f'house.{importlib}')\n__import__('json')\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path / "house"


def test_every_kind_of_import_counts(package):
    assert imports(package) == {
        "house": set(),
        "house.errors": {"json", "os.path"},
        "house.east": {"house.east.door"},
        "house.east.door": {"house.errors"},
        "house.west": set(),
        "house.west.room": {"typing", "house.west.window", "house.east.door", "house.east"},
        "house.west.window": {"house.west.room"},
        "house.west.roof": {"importlib", "house.east.door", "*", "json"},
    }


def test_modules_of_a_wing_have_their_full_names(package):
    assert imports(package / "east") == {"house.east": {"house.east.door"}, "house.east.door": {"house.errors"}}


def test_a_folder_that_is_no_package(package):
    (package.parent / "scripts").mkdir()
    (package.parent / "scripts" / "walk.py").write_text("from house import east, nothing\n")
    assert imports(package.parent / "scripts") == {"scripts.walk": {"house.east", "house"}}
    with pytest.raises(ValueError, match="there is no module below"):
        imports(package.parent / "missing")


def test_a_circle_is_named(package):
    assert find_circle(imports(package)) == ["house.west.room", "house.west.window", "house.west.room"]
    assert find_circle(imports(package / "east")) is None
    assert find_circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"elsewhere"}}) is None
    assert find_circle({"a": {"a"}}) == ["a", "a"]
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
