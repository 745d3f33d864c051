"""The rules of the leaderboard: whose rows it has, and its tables."""

import csv
import io

from sqlalchemy.orm import Session

from service.benchmarks import service as benchmarks
from service.contracts.benchmarks.leaderboard import COLUMNS, SHORT, Mark, Ranking, Row, published_rows, rank, shown
from service.contracts.benchmarks.official import FILES
from service.errors import NotFound
from service.leaderboard.schemas import Leaderboard

_MARKED: dict[Mark | None, str] = {"best": "**{}**", "second": "<u>{}</u>", None: "{}"}
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\|*_`<>[]"})


def leaderboard(session: Session, benchmark: str) -> Leaderboard:
    """The rankings on a benchmark. Raises NotFound."""
    official = [file.name for file in FILES]
    if benchmark not in official:
        known = sorted({*official, *benchmarks.names(session)})
        if benchmark not in known:
            raise NotFound(f"there is no benchmark {benchmark!r}; there are: {', '.join(known)}")
    return Leaderboard(benchmark=benchmark, columns=list(COLUMNS), rankings=rank(published_rows(benchmark)))


def heading(ranking: Ranking) -> str:
    """What is ranked, in a line."""
    data = f"data {ranking.data_sha256[:12]}" if ranking.data_sha256 else "data not stated"
    return f"{ranking.benchmark}, judge {ranking.judge}, {data}, protocol {ranking.protocol}"


def csv_table(board: Leaderboard) -> str:
    """A line per row; `best` and `second` name the columns whose mark it has."""
    text = io.StringIO()
    writer = csv.writer(text)
    about = ("benchmark", "judge", "data_sha256", "protocol")
    writer.writerow([*about, "model", "kind", "source", *COLUMNS, "best", "second"])
    for ranking in board.rankings:
        said = [ranking.benchmark, ranking.judge, ranking.data_sha256 or "", ranking.protocol]
        for row in ranking.rows:
            values = [shown(row.values.get(column)) for column in COLUMNS]
            writer.writerow([*said, row.model, row.kind, row.source, *values, _with("best", row), _with("second", row)])
    return text.getvalue()


def markdown(board: Leaderboard) -> str:
    """A table per ranking: the best value bold, the second underlined."""
    parts = [f"# {board.benchmark}" + ("" if board.rankings else "\n\nNothing was evaluated or published yet.")]
    for ranking in board.rankings:
        lines = [f"## {_escaped(heading(ranking))}", "", *(f"{_escaped(note)}\n" for note in ranking.notes)]
        lines.append("| Model | " + " | ".join(SHORT[column] for column in COLUMNS) + " | |")
        lines.append("|---|" + "---:|" * len(COLUMNS) + "---|")
        for row in ranking.rows:
            values = [_MARKED[row.marks.get(column)].format(shown(row.values.get(column))) for column in COLUMNS]
            cells = [_escaped(row.model), *values, f"{row.kind}: {_escaped(row.source)}"]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _with(mark: Mark, row: Row) -> str:
    return "; ".join(column for column in COLUMNS if row.marks.get(column) == mark)


def _escaped(text: str) -> str:
    return " ".join(text.translate(_SPECIAL).split())
