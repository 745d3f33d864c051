"""Query and response of `/leaderboard`."""

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.benchmarks.leaderboard import Ranking
from service.contracts.benchmarks.official import FILES
from service.http.pagination import Text


class LeaderboardQuery(BaseModel):
    """The benchmark of a leaderboard."""

    model_config = ConfigDict(extra="forbid")

    benchmark: Text = Field(FILES[0].name, description="Name of a UniGenBench++ set or of another imported benchmark.")


class Leaderboard(BaseModel):
    """Rankings on one benchmark. Rows of different rankings are not comparable: their judge, benchmark content,
    protocol, number of images or seeds differ."""

    benchmark: str = Field(examples=["unigenbench-en"])
    columns: list[str] = Field(description="Names of the values, in the order of the tables.")
    notes: list[str] = Field([], description="What is omitted, and why.")
    rankings: list[Ranking]
