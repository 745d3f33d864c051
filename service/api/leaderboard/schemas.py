"""How the leaderboard is asked for and shown."""

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.benchmarks.leaderboard import Ranking
from service.contracts.benchmarks.official import FILES
from service.http import openapi_examples
from service.http.pagination import Text


class LeaderboardQuery(BaseModel):
    """Which leaderboard."""

    model_config = ConfigDict(extra="forbid")

    benchmark: Text = Field(FILES[0].name, description="One of UniGenBench++'s sets, or another that was imported.")


class Leaderboard(BaseModel):
    """Rankings on one benchmark. What two of them say cannot be compared: judge, content, protocol, number of images
    or seeds differ."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.LEADERBOARD))

    benchmark: str
    columns: list[str] = Field(description="Names of the values, in the order of the tables.")
    notes: list[str] = Field([], description="What is not shown, and why.")
    rankings: list[Ranking]
