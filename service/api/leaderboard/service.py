"""The rules of the leaderboard: whose rows it has, and its tables."""

import csv
import io

from sqlalchemy.orm import Session

from service.api.benchmarks import service as benchmarks
from service.api.leaderboard.rows import evaluated
from service.api.leaderboard.schemas import Leaderboard
from service.contracts.benchmarks.leaderboard import COLUMNS, SHORT, Mark, Ranking, Row, published_rows, rank, shown
from service.contracts.benchmarks.official import FILES
from service.http.errors import NotFound

_MARKED: dict[Mark | None, str] = {"best": "**{}**", "second": "<u>{}</u>", None: "{}"}
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\|*_`<>[]"})


def leaderboard(session: Session, benchmark: str) -> Leaderboard:
    """The rankings on a benchmark. Raises NotFound."""
    official = [file.name for file in FILES]
    if benchmark not in official:
        known = sorted({*official, *benchmarks.names(session)})
        if benchmark not in known:
            raise NotFound(f"there is no benchmark {benchmark!r}; there are: {', '.join(known)}")
    rows, notes = evaluated(session, benchmark)
    rankings = rank([*published_rows(benchmark), *rows])
    return Leaderboard(benchmark=benchmark, columns=list(COLUMNS), notes=notes, rankings=rankings)


def heading(ranking: Ranking) -> str:
    """What is ranked, in a line."""
    data = f"data {ranking.data_sha256[:12]}" if ranking.data_sha256 else "data not stated"
    images = "" if ranking.num_images is None else f", {ranking.num_images} images from seed {ranking.seed} on"
    return f"{ranking.benchmark}, judge {ranking.judge}, {data}, protocol {ranking.protocol}{images}"


def csv_table(board: Leaderboard) -> str:
    """A line per row; `best` and `second` name the columns whose mark it has."""
    text = io.StringIO()
    writer = csv.writer(text)
    about = ("benchmark", "judge", "data_sha256", "protocol", "content_sha256", "num_images", "seed")
    own = ("evaluation_id", "failed_answers")
    interval = ("overall_low", "overall_high")
    writer.writerow([*about, "model", "kind", "source", *COLUMNS, "best", "second", *interval, *own])
    for ranking in board.rankings:
        for row in ranking.rows:
            said, known = ([getattr(row, name) for name in names] for names in (about, own))
            values = [shown(row.values.get(column)) for column in COLUMNS]
            ends = map(shown, row.overall_interval95 or (None, None))
            marks = [_with("best", row), _with("second", row)]
            writer.writerow([*said, row.model, row.kind, row.source, *values, *marks, *ends, *known])
    return text.getvalue()


def markdown(board: Leaderboard) -> str:
    """A table per ranking: the best value bold, the second underlined."""
    parts = [f"# {board.benchmark}" + ("" if board.rankings else "\n\nNothing was evaluated or published yet.")]
    parts += map(_escaped, board.notes)
    for ranking in board.rankings:
        lines = [f"## {_escaped(heading(ranking))}", "", *(f"{_escaped(note)}\n" for note in ranking.notes)]
        lines.append("| Model | " + " | ".join(SHORT[column] for column in COLUMNS) + " | |")
        lines.append("|---|" + "---:|" * len(COLUMNS) + "---|")
        for row in ranking.rows:
            values = [_MARKED[row.marks.get(column)].format(shown(row.values.get(column))) for column in COLUMNS]
            cells = [_escaped(row.model), *values, f"{row.kind}: {_escaped(_about(row))}"]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _about(row: Row) -> str:
    """Where a row comes from, and what is known of its answers."""
    about = [row.source]
    if row.overall_interval95 is not None:
        about.append("95% interval of Overall " + " to ".join(map(shown, row.overall_interval95)))
    if row.failed_answers:
        about.append(f"answers failed: {row.failed_answers}")
    return ", ".join(about)


def _with(mark: Mark, row: Row) -> str:
    return "; ".join(column for column in COLUMNS if row.marks.get(column) == mark)


def _escaped(text: str) -> str:
    return " ".join(text.translate(_SPECIAL).split())
