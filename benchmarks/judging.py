"""Measure throughput and memory of an evaluation with a remote judge: `python -m benchmarks.judging`.

The images already exist, the judge is a server in a separate process that responds after a fixed delay, and the
evaluation is the process that a worker starts. The ideal throughput is that of a judge that always processes the
maximum number of concurrent requests. `--json FILE` writes the measurements.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from service.contracts.attempt_files import EVENTS_FILE
from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, JudgePrompt, Point
from service.contracts.benchmarks.dimensions import SUB
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import (
    IMAGES,
    DrawnImage,
    EvaluationEventLine,
    EvaluationJob,
    EvaluationSpec,
    ImageAnswered,
)
from service.contracts.events import Finished, Started

POINTS = 3
PER_PROMPT = 4
DIFFERENT = 32
"""Number of different images; all files are copies of them."""
WORDS = JudgePrompt(
    template="Look at the image of «{prompt}» for {testpoint}. {explanation} {test_explanation} " + "Be exact. " * 200,
    definitions={one: f"definition of {one}" for one in SUB},
    definitions_heading="Definitions",
    descriptions_heading="Descriptions",
)


@dataclass(frozen=True)
class Measured:
    """Measurements of one evaluation."""

    images: int
    seconds: float
    ideal_seconds: float
    max_concurrent: int
    processor_seconds: float
    """CPU time of the evaluation process."""
    megabytes: list[float]
    """Resident memory of the evaluation process at each tenth of its duration."""

    @property
    def share(self) -> float:
        """Share of the ideal throughput."""
        return self.ideal_seconds / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2400, help="number of images")
    parser.add_argument("--size", type=int, default=256, help="width and height, pixels")
    parser.add_argument("--milliseconds", type=float, default=200.0, help="response time of the judge")
    parser.add_argument("--concurrency", type=int, default=20, help="maximum number of concurrent requests")
    parser.add_argument("--image", choices=("jpeg", "png"), default="jpeg", help="image format of requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="judging-") as directory:
        measured = measure(Path(directory), options)
    rate = measured.images / measured.seconds
    ideal = measured.images / measured.ideal_seconds
    print(f"{measured.images} images in {measured.seconds:.1f} s: {rate:.1f} per second of {ideal:.1f}", end="")
    print(f" possible, {measured.share:.1%}; at most {measured.max_concurrent} concurrent requests")
    print(f"{1000 * measured.processor_seconds / measured.images:.1f} ms of CPU time per image")
    print(f"resident memory at each tenth, MB: {' '.join(f'{one:.0f}' for one in measured.megabytes)}")
    if options.json:
        options.json.write_text(json.dumps(asdict(measured) | {"share": measured.share}, indent=1), encoding="utf-8")


def measure(directory: Path, options: argparse.Namespace) -> Measured:
    """Run one evaluation."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=serve, args=(theirs, options.milliseconds / 1000), daemon=True)
    server.start()
    port = ours.recv()
    out = directory / "attempt"
    write_images(out / IMAGES, options.images, options.size)
    job_file = directory / "job.json"
    url = f"http://127.0.0.1:{port}/v1"
    job_file.write_text(job(url, options).model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "worker.entrypoints.evaluate", str(job_file), "--out", str(out)]
    megabytes: list[tuple[float, float]] = []
    with subprocess.Popen(command, env={**os.environ, "NO_PROXY": "127.0.0.1"}, stderr=subprocess.DEVNULL) as child:
        watched = psutil.Process(child.pid)
        loaded = None
        while child.poll() is None:
            try:
                memory, times = watched.memory_info().rss / 1e6, watched.cpu_times()
            except psutil.NoSuchProcess:
                break
            if memory and not loaded and b'"type":"started"' in read(out):
                loaded = times.user + times.system
            if memory and loaded is not None:
                megabytes.append((time.time(), memory))
                used = times.user + times.system - loaded
            time.sleep(0.1)
    events = [EvaluationEventLine.validate_json(line) for line in read(out).splitlines()]
    (started,) = (event for event in events if isinstance(event, Started))
    finished = events[-1]
    answers = [event for event in events if isinstance(event, ImageAnswered)]
    if not isinstance(finished, Finished) or any(event.scores is None for event in answers):
        raise SystemExit(f"The evaluation failed; last event: {finished}")
    ours.send(None)
    start, seconds = started.time.timestamp(), (finished.time - started.time).total_seconds()
    rounds = -(-options.images // options.concurrency)
    return Measured(
        images=len(answers),
        seconds=seconds,
        ideal_seconds=rounds * options.milliseconds / 1000,
        max_concurrent=ours.recv(),
        processor_seconds=used,
        megabytes=[
            min(megabytes, key=lambda one: abs(one[0] - start - tenth * seconds / 10))[1] for tenth in range(1, 11)
        ],
    )


def read(out: Path) -> bytes:
    """Content of the event file of the attempt so far."""
    file = out / EVENTS_FILE
    return file.read_bytes() if file.exists() else b""


def job(url: str, options: argparse.Namespace) -> EvaluationJob:
    """An evaluation whose images are all generated and not yet judged."""
    judge = JudgeEntry(
        name="local",
        kind="openai",
        url=url,
        model="local",
        concurrency=options.concurrency,
        image_format=options.image,
    )
    points = tuple(Point(name=one, dimension=one, description="description of the test point") for one in SUB[:POINTS])
    prompts = tuple(
        BenchmarkPrompt(
            index=index,
            text=f"prompt number {index}",
            category="-",
            subcategory="-",
            subject="-",
            sentence_structure="-",
            points=points,
        )
        for index in range(options.images // PER_PROMPT)
    )
    return EvaluationJob(
        spec=EvaluationSpec(judge="local", num_images=PER_PROMPT),
        benchmark=Benchmark(
            name="local",
            title="Local",
            language="en",
            length="short",
            file="-",
            data_sha256="0" * 64,
            pinned=False,
            prompts=prompts,
            judge=WORDS,
        ),
        judge=judge,
        drawn=tuple(
            DrawnImage(index=one.index, image_index=image_index) for one in prompts for image_index in range(PER_PROMPT)
        ),
        done=(),
    )


def write_images(directory: Path, images: int, size: int) -> None:
    """Write images of smooth shapes with a little noise, with about as much detail as a photograph."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = []
    for number in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        pixels = np.asarray(coarse, dtype=np.int16) + rng.normal(0, 4, (size, size, 3)).astype(np.int16)
        file = directory.parent / f"{number}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
        files.append(file.read_bytes())
    for number in range(images):
        (directory / f"{number // PER_PROMPT}_{number % PER_PROMPT}.png").write_bytes(files[number % DIFFERENT])


def serve(pipe: Connection, seconds: float) -> None:
    """Serve a judge that returns the same response after `seconds`.

    Sends the port and, at the end, the maximum number of concurrent requests through `pipe`.
    """
    asyncio.run(_serve(pipe, seconds))


async def _serve(pipe: Connection, seconds: float) -> None:
    answer = f"<analysis>{['The image shows what the prompt describes.'] * POINTS}</analysis>"
    completion = {"choices": [{"message": {"role": "assistant", "content": f"{answer}<score>{[1] * POINTS}</score>"}}]}
    body = json.dumps(completion).encode()
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    active = peak = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal active, peak
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                active += 1
                peak = max(peak, active)
                await asyncio.sleep(seconds)
                active -= 1
                writer.write(response)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    async with server:
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
    pipe.send(peak)


if __name__ == "__main__":
    main()
