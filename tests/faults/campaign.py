"""A campaign: active users, random faults, and then the checks."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sqlalchemy import text

from tests.faults.invariants import AUDIT, Findings, empty_store, leftovers
from tests.faults.kinds import KINDS, FaultContext, Kind
from tests.faults.monitor import Injected, Monitor
from tests.faults.references import References
from tests.faults.system import System
from tests.faults.users import Users


@dataclass
class Result:
    """Counts and findings of a campaign."""

    seed: int
    faults: list[Injected]
    kills: int
    fault_seconds: float
    compared: dict[str, int]
    stories: dict[str, int]
    together_seconds: float
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Markdown table by kind of fault: count, affected and recovered jobs, seconds until progress."""
        lines = ["| fault | injected | jobs met | recovered | median s | max s |", "|---|---:|---:|---:|---:|---:|"]
        for name in KINDS:
            own = [fault for fault in self.faults if fault.kind == name]
            if own:
                lines.append(_line(name, own))
        lines.append(_line("**all**", self.faults))
        return "\n".join(lines)

    def report(self) -> str:
        """The complete report as text."""
        summary = ", ".join(f"{name} {count}" for name, count in sorted(self.stories.items()))
        seen = "\n".join(f"- {name}: {count}" for name, count in self.compared.items())
        head = f"seed {self.seed}: {len(self.faults)} faults, {self.kills} kills, faults for {self.fault_seconds:.0f} s"
        verdict = "every invariant holds" if not self.wrong else f"{len(self.wrong)} things are wrong:"
        wrong = "\n".join(f"- {one}" for one in self.wrong)
        together = f"- seconds in which a superseded process and its successor both ran: {self.together_seconds:.1f}"
        return (
            f"{head}\n\n{self.table()}\n\nstories: {summary}\n\nlooked at:\n{seen}\n{together}\n\n{verdict}\n{wrong}\n"
        )


def _line(name: str, faults: Sequence[Injected]) -> str:
    met = sum(len(fault.met) for fault in faults)
    seconds = [value for fault in faults for value in fault.recovered.values()]
    times = f"{median(seconds):.1f} | {max(seconds):.1f}" if seconds else "– | –"
    return f"| {name} | {len(faults)} | {met} | {len(seconds)} | {times} |"


def run_campaign(
    directory: Path,
    seed: int,
    kills: int,
    *,
    most_faults: int = 10_000,
    most_seconds: float = 3600.0,
    settle_seconds: float = 600.0,
    between: tuple[float, float] = (0.5, 5.0),
    at_once: int = 4,
    kinds: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Disturb a fresh service in `directory` until `kills` processes were killed, let it become idle, and check it.

    `most_faults` and `most_seconds` limit the faults, `settle_seconds` the time afterwards. `between` is the minimum
    and maximum number of seconds between two faults. `at_once` users train. `kinds` restricts the faults to these
    kinds, in equal numbers. The seed determines the order of faults, their targets and the users' actions, but not
    their exact times.
    """
    rng = random.Random(seed)
    references = References(directory / "references")
    with System(directory, random.Random(f"{seed}:machines")) as system:
        _audit(system)
        monitor = Monitor(system)
        users = Users(system.stack.url, seed, at_once)
        context = FaultContext(system, monitor, rng)
        users.start()
        started = time.monotonic()
        chosen = [KINDS[name] for name in kinds] or [kind for kind in KINDS.values() for _ in range(kind.weight)]
        deck = _Deck(rng, chosen)
        done = 0
        while done < kills and len(monitor.faults) < most_faults and time.monotonic() - started < most_seconds:
            if system.stack.failure is not None:
                break
            context.ended.wait(rng.uniform(*between) if rng.random() < 0.8 else 0.0)
            kind = deck.draw()
            if (effect := kind.do(context)) is None:
                continue
            monitor.injected(kind.name, effect.aim, effect.met, effect.new_attempt)
            done += kind.kill
            say(f"{time.monotonic() - started:6.1f} s  {done:3} kills  {kind.name} {effect.aim}")
        fault_seconds = time.monotonic() - started
        context.repair()
        say(f"the faults ended after {fault_seconds:.0f} s; waiting until the system is idle")
        users.stop(settle_seconds)
        _rest(monitor, settle_seconds)
        say("comparing with undisturbed runs")
        findings = Findings(system, monitor, users, references)
        try:
            wrong = findings.all()
            wrong += empty_store(system, users) if not wrong else []
        finally:
            findings.close()
            monitor.stop()
        faults, processes = monitor.faults, set(monitor.processes)
        if system.stack.failure is not None:
            wrong.append(f"the stack gave up: {system.stack.failure}")
    wrong += leftovers(system, processes)
    return Result(
        seed,
        faults,
        done,
        fault_seconds,
        dict(findings.compared),
        dict(users.story_counts),
        monitor.together_seconds,
        wrong,
    )


class _Deck:
    """Kinds of faults in random order, shuffled again after the last one."""

    def __init__(self, rng: random.Random, kinds: Sequence[Kind]) -> None:
        self._rng, self._kinds, self._cards = rng, kinds, list[Kind]()

    def draw(self) -> Kind:
        if not self._cards:
            self._cards = list(self._kinds)
            self._rng.shuffle(self._cards)
        return self._cards.pop()


def _audit(system: System) -> None:
    engine = system.engine()
    with engine.begin() as connection:
        connection.execute(text(AUDIT))
    engine.dispose()


def _rest(monitor: Monitor, seconds: float) -> None:
    """Wait until every job is idle or the time is over; the checks report jobs that are not."""
    deadline = time.monotonic() + seconds
    resting = threading.Event()
    while monitor.waiting() and time.monotonic() < deadline:
        resting.wait(0.2)
