"""This machine: its settings, its data directory, its catalog, its port."""

import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from service.api.catalog.sources import places
from service.contracts.catalog import catalog_path, load_catalog
from service.core.settings import unknown_variables, what_is_wrong
from service.observability.health.checks import in_words
from service.observability.health.findings import Doubtful, Wrong


def variables(environment: Mapping[str, str], refused: ValidationError | None) -> str:
    """Our environment variables are known, and have values that can be used; the values are not shown."""
    if refused is not None:
        raise Wrong(what_is_wrong(refused), "mend it, or unset it; docs/reference/settings.md lists every setting")
    unknown = unknown_variables(environment)
    if unknown:
        words = [f"{name} (meant: {meant}?)" if meant else name for name, meant in unknown.items()]
        raise Doubtful(f"nothing reads {', '.join(words)}", "mend the name, or unset it")
    given = sorted(name for name in environment if name.startswith("G2RPO_"))
    return f"given: {', '.join(given)}" if given else "all by default"


def data_directory(data: Path, least: int) -> str:
    """Files can be written there, `least` bytes of them, and others cannot read them."""
    place = next(one for one in (data, *data.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"ready")
    except OSError as error:
        hint = f"let the user who runs the service write there, or choose another (--data, G2RPO_DATA_DIR; now {data})"
        raise Wrong(f"{place} cannot be written: {error.strerror}", hint) from error
    free = shutil.disk_usage(place).free
    if free < least:
        hint = f"make room there (G2RPO_MIN_FREE_BYTES asks for {in_words(least)}), or choose another place with --data"
        raise Wrong(f"disk nearly full: {in_words(free)} left in {place}", hint)
    if place != data:
        return f"{data} is made when it is first needed, {in_words(free)} free"
    if stat.S_IMODE(data.stat().st_mode) & 0o007:
        raise Doubtful(f"every user of this machine can get into {data}", f"run `chmod o= {data}`")
    return f"{data}, {in_words(free)} free"


def catalog() -> str:
    """The catalog can be read, and what it points to is on this machine."""
    chosen = catalog_path()
    try:
        offered = load_catalog(chosen)
    except (OSError, ValueError) as error:
        words = error.strerror or "" if isinstance(error, OSError) else str(error).replace(f"{chosen}: ", "")
        reason = " ".join(words.split())[:300]
        hint = "fix the file that G2RPO_CATALOG names, or unset it for the bundled one; see docs/how-to/extend.md"
        raise Wrong(f"{chosen} cannot be used: {reason}", hint) from error
    missing = [f"{place.entry}: {place.told}" for place in places(offered) if place.missing]
    if missing:
        hint = "put it there, or mend the catalog (`g2rpo catalog check`); an API alone does not need it"
        raise Doubtful(f"{chosen} names what is not here: {'; '.join(missing)}", hint)
    numbers = f"{len(offered.models)} models, {len(offered.rewards)} rewards, {len(offered.prompt_sets)} prompt sets"
    return f"{chosen}: {numbers}"


def port(number: int) -> str:
    """`g2rpo up` may listen there."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", number))
        except OSError as error:
            hint = "stop what listens there, or choose another (--port, G2RPO_PORT); 0: a free one"
            raise Wrong(f"port {number} of 127.0.0.1 cannot be had: {error.strerror}", hint) from error
    return f"{number} is free"
