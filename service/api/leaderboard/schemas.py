"""Query parameters and response of `/leaderboard`."""

from pydantic import BaseModel, Field

from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.leaderboard import Ranking
from service.http.pagination import StrictQuery, Text


class LeaderboardQuery(StrictQuery):
    """Query parameters of the leaderboard."""

    benchmark: Text = Field(BUNDLED, description="Name of a UniGenBench++ set or another imported benchmark.")


class Leaderboard(BaseModel):
    """Rankings on one benchmark.

    Rows in different rankings are not comparable because their judge, benchmark content, protocol, number of images or
    seeds differ.
    """

    benchmark: str = Field(examples=["unigenbench-en"])
    columns: list[str] = Field(description="Column names in table order.")
    notes: list[str] = Field([], description="What is omitted, and why.")
    rankings: list[Ranking]
