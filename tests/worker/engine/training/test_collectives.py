"""What processes exchange, in two forked processes that compute nothing else."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed, init_distributed
from worker.engine.training.event_log import Cancelled, Paused


def exchanged(distributed: Distributed) -> dict[str, Any]:
    """The results of every collective operation in this process."""
    rank = distributed.rank
    shard = distributed.shard(3)
    found: dict[str, Any] = {"rank": rank, "main": distributed.is_main, "shard": list(shard)}
    found["sum"] = distributed.all_reduce(torch.tensor([1.0, 10.0]) + rank).tolist()
    found["empty"] = distributed.all_reduce(torch.zeros(0)).tolist()
    part = torch.tensor([[float(index), 10.0 + index] for index in shard])
    found["rows"] = distributed.all_gather(part, 3).tolist()
    found["columns"] = distributed.all_gather(part.T, 3, dim=1).tolist()
    found["objects"] = distributed.all_gather_object(f"rank {rank}")
    found["broadcast"] = distributed.broadcast(f"rank {rank}")
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    distributed.reduce_gradients(parameters)  # there are none yet
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    parameters[2].grad = torch.tensor([5.0, rank])
    distributed.reduce_gradients(parameters)
    found["gradients"] = [None if each.grad is None else each.grad.tolist() for each in parameters]
    own = {"nfe/anchor": 2.0, "elapsed/nfe": 3.0, "images/total": 4.0, "memory/update": 5.0 + rank, "loss": 6.0 + rank}
    found["metrics"] = distributed.reduce_metrics(own | ({"nfe/update": 7.0} if rank else {}))
    meter = CostMeter(distributed)
    meter.count("anchor", 1 + rank)
    meter.count_images(5)
    found["cost"] = meter.state_dict()
    for stops in ((None, None), (None, Paused), (Cancelled, Paused)):
        stop = stops[rank]
        try:
            with distributed.synchronized_stop():
                if stop is not None:
                    raise stop
            found.setdefault("stops", []).append("none")
        except (Paused, Cancelled) as raised:
            found.setdefault("stops", []).append(type(raised).__name__)
    return found


def process(rank: int, file: Path, results: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    distributed = init_distributed("cpu", f"file://{file}")
    results.put(exchanged(distributed))
    distributed.shut_down()


def in_two_processes(function: Callable[..., None], file: Path) -> list[dict[str, Any]]:
    """What the function puts into a queue in each of two processes, by rank."""
    context = multiprocessing.get_context("fork")  # torch is loaded already
    results = context.Queue()
    processes = [context.Process(target=function, args=(rank, file, results), daemon=True) for rank in range(2)]
    for each in processes:
        each.start()
    found = [results.get(timeout=60) for _ in processes]
    for each in processes:
        each.join(60)
    return sorted(found, key=lambda one: one["rank"])


def test_two_processes_have_equal_sums_and_ordered_parts(tmp_path: Path) -> None:
    both = in_two_processes(process, tmp_path / "rendezvous")
    assert [(each.pop("rank"), each.pop("main"), each.pop("shard")) for each in both] == [
        (0, True, [0, 1]),
        (1, False, [2]),
    ]
    assert [each["metrics"].pop("loss") for each in both] == [6.0, 7.0]  # of the process itself
    assert both[0] == both[1]
    assert both[0] == {
        "sum": [3.0, 21.0],
        "empty": [],
        "rows": [[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]],
        "columns": [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]],
        "objects": ["rank 0", "rank 1"],
        "broadcast": "rank 0",
        "gradients": [[3.0, 6.0], None, [10.0, 1.0]],
        "metrics": {
            "nfe/anchor": 4.0,
            "elapsed/nfe": 6.0,
            "images/total": 8.0,
            "memory/update": 6.0,
            "nfe/update": 7.0,
        },
        "cost": {"nfe": 3, "training_nfe": 3, "images": 10},
        "stops": ["none", "Paused", "Cancelled"],
    }


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = init_distributed("cpu")
    assert (alone.device.type, alone.rank, alone.world_size) == ("cpu", 0, 1)
    assert alone.device_mesh() is None
    assert [list(Distributed(alone.device, rank, 3).shard(4)) for rank in range(3)] == [[0, 1], [2, 3], []]
