"""`g2rpo evaluations ...`: evaluate models on benchmarks and show the results."""

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.api.evaluations.schemas import EvaluationView
from service.cli import console, ids, options
from service.cli.benchmarks import print_scores
from service.cli.watch import ProgressDisplay
from service.client import Client
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.scores import Difference
from service.contracts.status import JobStatus

app = typer.Typer(no_args_is_help=True, help="Evaluate models on benchmarks.")

EvaluationId = Annotated[str, ids.argument("evaluation", ids.evaluation)]
_SIGNS = {1: "+", 0: "-", None: "?"}
_GALLERY_FORMS: dict[str, Literal["png", "html"]] = {".png": "png", ".html": "html"}


@app.command()
def start(
    benchmark: Annotated[str | None, typer.Option(help="Benchmark; default: shapes-bench.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog model.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", parser=ids.checkpoint, metavar="ID", help="Default: the base model."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Catalog judge; `none` to use rewards only.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="Reward to compute for every image; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts, spread over the benchmark.")] = None,
    num_images: Annotated[int | None, typer.Option("--num-images", "-n", min=1, help="Images per prompt.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image of each prompt; default: 3407.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name on leaderboards.")] = None,
    watching: options.Watch = False,
) -> None:
    """Generate images with a model or checkpoint and evaluate them."""
    spec = console.drop_unset(
        benchmark=benchmark,
        model=model,
        checkpoint=checkpoint,
        judge=judge,
        rewards=reward,
        limit=limit,
        num_images=num_images,
        seed=seed,
        name=name,
    )
    if judge == "none":
        spec["judge"] = None
    with console.connect() as client:
        _follow(client, client.evaluate(spec), watching)


@app.command("list")
@console.with_formats
def list_evaluations(
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only evaluations in this state; repeatable.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Only evaluations on this benchmark.")] = None,
    limit: options.Limit = 50,
) -> None:
    """List evaluations, newest first."""
    with console.connect() as client:
        console.print_items(
            islice(client.evaluations(status=status or (), benchmark=benchmark), limit),
            *("id", "name", "status", "model", "checkpoint", "benchmark", "judge"),
            overall=lambda one: None if one.overall is None else f"{100 * one.overall:.2f}",
        )


@app.command()
@console.with_formats
def show(evaluation_id: EvaluationId) -> None:
    """Show the state of an evaluation and its scores."""
    with console.connect() as client:
        evaluation = client.evaluation(evaluation_id)
    if not console.emit(evaluation):
        _print_results(evaluation)


@app.command()
def watch(evaluation_id: EvaluationId) -> None:
    """Follow an evaluation until it ends."""
    with console.connect() as client:
        _follow(client, client.evaluation(evaluation_id), watching=True)


@app.command()
def cancel(evaluation_id: EvaluationId) -> None:
    """Cancel an evaluation. It can be continued with `resume`."""
    with console.connect() as client:
        _print_state(client.cancel_evaluation(evaluation_id))


@app.command()
def resume(evaluation_id: EvaluationId, watching: options.Watch = False) -> None:
    """Resume an evaluation that has ended: generate missing images and repeat failed judge requests."""
    with console.connect() as client:
        _follow(client, client.resume_evaluation(evaluation_id), watching)


@app.command()
def delete(evaluation_id: EvaluationId, yes: options.Yes = False) -> None:
    """Delete an evaluation that has ended, with its images and results."""
    console.confirm(yes, f"Delete evaluation {evaluation_id} with its images and results?")
    with console.connect() as client:
        client.delete_evaluation(evaluation_id)
    console.print_line(f"deleted evaluation {evaluation_id}")


@app.command()
def logs(evaluation_id: EvaluationId) -> None:
    """Print the log of the newest attempt."""
    with console.connect() as client:
        part = client.evaluation_logs(evaluation_id)
        sys.stdout.write(part.text)
        while part.next_offset < part.size:
            part = client.evaluation_logs(evaluation_id, attempt=part.attempt, offset=part.next_offset)
            sys.stdout.write(part.text)


@app.command()
@console.with_formats
def answers(
    evaluation_id: EvaluationId,
    dimension: options.Dimension = None,
    index: Annotated[int | None, typer.Option(min=0, help="Only this prompt.")] = None,
    met: Annotated[
        bool | None, typer.Option("--met/--unmet", help="Only images with a met or unmet test point.")
    ] = None,
    failure: Annotated[Failure | None, typer.Option(help="Only answers that failed for this reason.")] = None,
    all_tries: Annotated[bool, typer.Option("--all-tries", help="Include earlier answers for the same image.")] = False,
    words: Annotated[bool, typer.Option("--words", help="Print the judge's full text.")] = False,
    limit: options.Limit = 20,
) -> None:
    """List the judge's results for each image: + met, - not met, ? unknown."""
    tries: Literal["newest", "all"] = "all" if all_tries else "newest"
    with console.connect() as client:
        found = client.answers(
            evaluation_id, dimension=dimension or (), index=index, met=met, failure=failure, tries=tries
        )
        answers = list(islice(found, limit))
        if console.emit(answers):
            return
        for answer in answers:
            failed = f"  {answer.failure} {answer.error}" if answer.failure else ""
            console.print_line(f"{answer.name}  {answer.prompt}{failed}")
            for point in answer.points:
                console.print_line(f"  {_SIGNS[point.score]} {point.name}: {point.description}")
            if words and answer.text is not None:
                console.print_line(answer.text)


@app.command()
def export(
    evaluation_id: EvaluationId,
    out: Annotated[
        Path | None, typer.Option(help="A .csv file, or a .json file with counts; default: EVALUATION.csv.")
    ] = None,
) -> None:
    """Write a result file in the official format, which `g2rpo benchmarks rescore` can read."""
    file = out or Path(f"{evaluation_id}.csv")
    console.media_type(file, {".csv": "text/csv", ".json": "application/json"})
    with console.connect() as client:
        client.export_evaluation(evaluation_id, file)
    console.print_line(f"wrote {file}")


@app.command()
@console.with_formats
def compare(
    first: EvaluationId,
    second: EvaluationId,
    resamples: options.Resamples = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Bootstrap seed.")] = None,
) -> None:
    """Show paired differences (second minus first) with 95% intervals, and the numbers of prompts won and lost.

    Both evaluations must have the same benchmark and judge.
    """
    with console.connect() as client:
        found = client.compare_evaluations(first, second, resamples=resamples, seed=seed)
    if console.emit(found):
        return
    console.print_warnings(found.warnings)
    console.print_line(
        f"{found.second.label} minus {found.first.label}, on {found.benchmark}, judge {found.judge or 'none'}"
    )
    rows = []
    if found.scores is not None:
        scores = {"overall": found.scores.overall, **found.scores.primary}
        rows += [(name, *_difference(score, 100, " points")) for name, score in scores.items()]
    rows += [(name, *_difference(reward, 1, "")) for name, reward in found.rewards.items()]
    console.print_table(("", "difference", "95% interval", "won", "lost", "tied"), rows)


@app.command()
def gallery(
    evaluation_id: EvaluationId,
    beside: Annotated[
        list[str] | None, typer.Option("--with", metavar="ID", parser=ids.evaluation, help="Another one; repeatable.")
    ] = None,
    dimension: options.Dimension = None,
    index: Annotated[list[int] | None, typer.Option(min=0, help="Show this prompt; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of random prompts if none is given.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random prompts.")] = 0,
    images: Annotated[int | None, typer.Option("--images", min=1, help="Images per prompt.")] = None,
    out: Annotated[Path, typer.Option(help="A .png file, or a self-contained .html page.")] = Path("gallery.png"),
) -> None:
    """Write a gallery that shows images from one or more evaluations side by side, with their judged test points."""
    form = console.media_type(out, _GALLERY_FORMS)
    with console.connect() as client:
        content = client.gallery(
            evaluation_id,
            form,
            beside=beside or (),
            dimension=dimension or (),
            index=index or (),
            count=count,
            seed=seed,
            images=images,
        )
    console.write_file(out, content)


def _follow(client: Client, evaluation: EvaluationView, watching: bool) -> None:
    """Print the state of an evaluation. If `watching`, follow the evaluation to its end and print its results."""
    if not watching:
        _print_state(evaluation)
        return
    with ProgressDisplay(again=f"g2rpo evaluations watch {evaluation.id}") as display:
        ended = client.wait_for_evaluation(evaluation.id, seen=display)
    _print_results(ended)


def _print_state(evaluation: EvaluationView) -> None:
    console.print_line(
        f"evaluation {evaluation.id} is {evaluation.status}: {evaluation.images} of {evaluation.total_images} images "
        f"generated, {evaluation.judged} judged, {evaluation.failed} answers failed"
    )
    console.print_error(evaluation)


def _print_results(evaluation: EvaluationView) -> None:
    """Print the state, scores and rewards of an evaluation, and exit with status 1 if it failed."""
    _print_state(evaluation)
    if evaluation.scores is not None:
        print_scores(evaluation.scores)
    for name, reward in evaluation.rewards.items():
        mean = "none" if reward.mean is None else f"{reward.mean:.4f}"
        interval = "" if reward.interval95 is None else f" ({reward.interval95[0]:.4f} to {reward.interval95[1]:.4f})"
        console.print_line(f"{name} {mean}{interval}")
    if evaluation.status is JobStatus.FAILED:
        raise typer.Exit(console.FAILED)


def _difference(found: Difference, scale: float, unit: str) -> tuple[Any, ...]:
    difference = None if found.difference is None else f"{scale * found.difference:+.4g}{unit}"
    interval = None if found.interval95 is None else " to ".join(f"{scale * end:+.4g}" for end in found.interval95)
    return difference, interval, found.wins, found.losses, found.ties
