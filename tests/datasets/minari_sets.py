import json

ID = "own/set-v0"


def edit_metadata(folder, **changes):
    """Change metadata.json; None leaves an entry out."""
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in metadata.items() if value is not None}))
