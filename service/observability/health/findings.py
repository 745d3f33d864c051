"""How one look at something ends: well, well but doubtful, wrong, or not to be known. Each says what to do."""

from collections.abc import Callable

from service.http.errors import ReadinessCheck


class Wrong(Exception):
    """It keeps the service from working."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.hint = hint


class Doubtful(Wrong):
    """The service works, but perhaps not as it was meant to."""


class Unknown(Exception):
    """It cannot be looked at, because something else is missing, which has a finding of its own."""


def look(name: str, check: Callable[[], str], hint: str = "") -> ReadinessCheck:
    """What `check` finds, in words; or why it could not, with its own hint or else `hint`."""
    try:
        return ReadinessCheck(name=name, ok=True, detail=check())
    except Wrong as wrong:
        return ReadinessCheck(name=name, ok=isinstance(wrong, Doubtful), detail=str(wrong), hint=wrong.hint)
    except Unknown as unknown:
        return ReadinessCheck(name=name, ok=False, detail=f"not known: {unknown}")
    except Exception as error:
        # A check fails by whatever its driver raises; people are to be told which one and why.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        return ReadinessCheck(name=name, ok=False, detail=reason, hint=hint)
