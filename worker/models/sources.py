"""Where the catalog's weights lie on this machine."""

from pathlib import Path

from service.contracts.catalog import Source

_BUNDLED = Path(__file__).parents[1] / "shapes" / "weights"


def locate(source: Source) -> tuple[str, str | None]:
    """What `from_pretrained` wants: a directory or hub id, and a revision. ValueError where a directory is missing."""
    if source.hub:
        return source.hub, source.revision
    directory = _BUNDLED / source.bundled if source.bundled else source.directory
    if directory is None or not directory.is_dir():
        raise ValueError(f"the catalog's weights {directory} are not there")
    return str(directory), None
