"""What an attempt tells: whole lines, whoever writes them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.contracts.events import Metrics
from worker.training.events import EventWriter


def test_lines_of_several_threads_stay_whole(tmp_path: Path) -> None:
    events = EventWriter(tmp_path)
    wide = {f"metric-{number}": 0.5 for number in range(500)}  # longer than a buffer
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda step: events.write(Metrics(step=step, values=wide)), range(200)))
    events.close()
    read = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(event["step"] for event in read) == list(range(200))
    assert all(event["values"] == wide for event in read)
