"""Curves of several runs over each other."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from service.api.curves.comparison_schemas import Axis, Band, Comparison
from service.client.transport import Id, Transport


class How(TypedDict, total=False):
    """How curves are compared; what is not said is as `GET /curves` has it."""

    x: Axis
    """What they are shown over: `step`, `nfe` or `seconds`."""
    band: Band
    """What is shown about a group's mean: `ci95`, `std`, `minmax` or `none`."""
    since_step: int
    max_points: int
    smooth: float


class Comparisons:
    """The route `/curves`."""

    _transport: Transport

    def compare(
        self,
        metrics: Sequence[str],
        *,
        runs: Sequence[Id] = (),
        groups: Mapping[str, Sequence[Id]] | None = None,
        **how: Unpack[How],
    ) -> Comparison:
        """Metrics of runs, and means of groups of them, over each other; a metric's name may end in `*`."""
        return self._transport.read(Comparison, "GET", "/curves", _query(metrics, runs, groups, how))

    def compare_figure(
        self,
        metrics: Sequence[str],
        form: Literal["png", "svg"] = "svg",
        *,
        runs: Sequence[Id] = (),
        groups: Mapping[str, Sequence[Id]] | None = None,
        width_mm: float | None = None,
        **how: Unpack[How],
    ) -> bytes:
        """The same as a figure: vectors, or 200 dots an inch; `width_mm` millimetres wide, 170 if unset."""
        headers = {"Accept": {"png": "image/png", "svg": "image/svg+xml"}[form]}
        query = {**_query(metrics, runs, groups, how), "width_mm": width_mm}
        return self._transport.send("GET", "/curves", query, headers=headers).content

    def compare_table(
        self,
        metrics: Sequence[str],
        *,
        runs: Sequence[Id] = (),
        groups: Mapping[str, Sequence[Id]] | None = None,
        **how: Unpack[How],
    ) -> bytes:
        """The same as CSV, a line for each point."""
        headers = {"Accept": "text/csv"}
        return self._transport.send("GET", "/curves", _query(metrics, runs, groups, how), headers=headers).content


def _query(
    metrics: Sequence[str], runs: Sequence[Id], groups: Mapping[str, Sequence[Id]] | None, how: Mapping[str, Any]
) -> dict[str, Any]:
    told = [f"{name}:{','.join(map(str, ids))}" for name, ids in (groups or {}).items()]
    return {"metric": list(metrics), "run": [str(run) for run in runs], "group": told, **how}
