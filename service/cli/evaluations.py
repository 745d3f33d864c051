"""`g2rpo evaluations ...`: models judged on benchmarks."""

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from service.api.evaluations.schemas import EvaluationView
from service.cli.benchmarks import print_scores
from service.cli.console import FAILED, connect, console
from service.cli.show import print_error
from service.cli.watch import line, printing
from service.contracts.status import JobStatus

app = typer.Typer(no_args_is_help=True, help="Evaluations: models judged on benchmarks.")

EvaluationId = Annotated[str, typer.Argument(metavar="EVALUATION", help="The evaluation's id.")]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]


@app.command()
def start(
    benchmark: Annotated[str | None, typer.Option(help="Default: shapes-bench.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the catalog.")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help="Default: the model itself.")] = None,
    judge: Annotated[str | None, typer.Option(help="A judge of the catalog; `none`: only rewards.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="A reward that every image gets; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many prompts, spread over the benchmark.")] = None,
    num_images: Annotated[int | None, typer.Option("--num-images", "-n", min=1, help="Images per prompt.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first image of each prompt; default: 3407.")] = None,
    name: Annotated[str | None, typer.Option(help="What people and leaderboards call it.")] = None,
    watching: WatchOption = False,
) -> None:
    """Have a model, or a checkpoint of it, drawn and judged."""
    said: dict[str, Any] = {"benchmark": benchmark, "model": model, "checkpoint": checkpoint, "limit": limit}
    said |= {"num_images": num_images, "seed": seed, "name": name, "rewards": reward, "judge": judge}
    spec = {field: value for field, value in said.items() if value is not None}
    if judge == "none":
        spec["judge"] = None
    with connect() as client:
        made = client.evaluate(spec)
        _print(made if not watching else _watch(made.id), watching)


@app.command("list")
def list_evaluations(
    status: Annotated[list[JobStatus] | None, typer.Option(help="One of these states; repeatable.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="On this benchmark.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
) -> None:
    """List evaluations, newest first."""
    table = Table("evaluation", "name", "status", "model", "checkpoint", "benchmark", "judge", "overall", box=None)
    with connect() as client:
        for _, one in zip(range(limit), client.evaluations(status=status or (), benchmark=benchmark), strict=False):
            overall = "" if one.overall is None else f"{100 * one.overall:.2f}"
            what = (one.model, one.checkpoint[-12:], one.benchmark, one.judge or "none")
            table.add_row(str(one.id), one.name, one.status, *what, overall)
    console.print(table)


@app.command()
def show(evaluation_id: EvaluationId) -> None:
    """Print where an evaluation stands and, once it has ended, its scores."""
    with connect() as client:
        _print(client.evaluation(evaluation_id), whole=True)


@app.command()
def watch(evaluation_id: EvaluationId) -> None:
    """Follow an evaluation to its end."""
    _print(_watch(evaluation_id), whole=True)


@app.command()
def cancel(evaluation_id: EvaluationId) -> None:
    """Ask for an evaluation's end; resuming goes on with it."""
    with connect() as client:
        _print(client.cancel_evaluation(evaluation_id))


@app.command()
def resume(evaluation_id: EvaluationId, watching: WatchOption = False) -> None:
    """Go on with an ended evaluation: what is missing is drawn, and unread answers are asked again."""
    with connect() as client:
        made = client.resume_evaluation(evaluation_id)
    _print(_watch(made.id) if watching else made, watching)


@app.command()
def delete(evaluation_id: EvaluationId) -> None:
    """Delete an ended evaluation with its images and answers."""
    with connect() as client:
        client.delete_evaluation(evaluation_id)
    console.print(f"deleted {evaluation_id}", highlight=False)


@app.command()
def logs(evaluation_id: EvaluationId) -> None:
    """Print what the newest attempt's process printed."""
    with connect() as client:
        part = client.evaluation_logs(evaluation_id)
        sys.stdout.write(part.text)
        while part.next_offset < part.size:
            part = client.evaluation_logs(evaluation_id, attempt=part.attempt, offset=part.next_offset)
            sys.stdout.write(part.text)


def _watch(id: Any) -> EvaluationView:
    with connect() as client:
        tell = printing(console)
        return client.wait_for_evaluation(id, seen=lambda now: tell(line(now)))


def _print(made: EvaluationView, whole: bool = False) -> None:
    """Say where it stands; `whole`: with its scores, and the exit status of how it ended."""
    state = f"evaluation {made.id} is {made.status}: {made.images} of {made.total_images} images drawn"
    console.print(f"{state}, {made.judged} judged, {made.failed} answers not readable", highlight=False)
    print_error(made)
    if not whole:
        return
    if made.scores is not None:
        print_scores(made.scores)
    for name, mean in made.rewards.items():
        shown = "none" if mean.mean is None else f"{mean.mean:.4f}"
        between = "" if mean.interval95 is None else f" ({mean.interval95[0]:.4f} to {mean.interval95[1]:.4f})"
        console.print(f"{name} {shown}{between}", highlight=False)
    if made.status is JobStatus.FAILED:
        raise typer.Exit(FAILED)
