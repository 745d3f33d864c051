"""Everything an operator may set, in one class: environment variables `G2RPO_<NAME>`, or arguments.

The API takes it from `create_app`; a worker takes it from `service.db.session.connect(...)`, as `database.settings`.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from service.core.security import check_form

_UNREADABLE = (
    "the URL cannot be read: after the host comes a port, which is a number; in user and password write "
    "%25 for %, %2F for /, %3A for :, %40 for @"
)


class Settings(BaseSettings):
    """Where things are, and how much of each is allowed."""

    model_config = SettingsConfigDict(env_prefix="G2RPO_", extra="ignore", frozen=True, hide_input_in_errors=True)

    # What it stands on
    database_url: str = Field(
        "postgresql+psycopg://localhost/g2rpo", repr=False, description="PostgreSQL 15 or newer, by psycopg 3."
    )
    broker_url: str = Field(
        "redis://localhost:6379/0", repr=False, description="Redis or Valkey: wakes workers up, counts requests."
    )
    data_dir: Path = Field(Path(".g2rpo"), description="Local directory for what has no other place.")
    storage_url: str | None = Field(
        None, description="fsspec URL of the artifact store; unset: `artifacts` under data_dir."
    )
    min_free_bytes: NonNegativeInt = Field(
        2**30, description="With less room than this in the artifact store the service says that it is not ready."
    )
    catalog: Path | None = Field(
        None,
        description="The YAML file of models, rewards, prompt sets and judges to offer; unset: the bundled one. "
        "Workers and what they start read the environment variable.",
    )
    log_level: str = Field("INFO", description="Least severe level that is logged.")

    # Who may ask for how much
    admin_key: SecretStr | None = Field(
        None, description="An API key with the scope admin, made by `g2rpo keys new`; another value revokes the former."
    )
    max_open_jobs: PositiveInt = Field(1000, description="Most jobs of one key that have not ended and do not rest.")
    requests_per_minute: PositiveInt = Field(6000, description="Most requests of one key in a minute.")

    # How jobs are held
    lease_seconds: PositiveFloat = Field(30, description="A job whose lease is older than this may be taken again.")
    renew_seconds: PositiveFloat = Field(10, description="Seconds between two renewals of a lease.")
    reconcile_seconds: PositiveFloat = Field(15, description="Seconds between two looks for jobs nobody was woken for.")
    progress_timeout_seconds: PositiveFloat = Field(
        1800, description="A child that reports nothing for this long is ended."
    )
    cancel_grace_seconds: PositiveFloat = Field(
        120, description="A child asked to stop gets this long, and two of its steps, before SIGTERM."
    )
    drain_seconds: PositiveFloat = Field(
        60, description="A worker told to stop gives its job this long to be saved before it ends the child."
    )
    max_attempts: PositiveInt = Field(
        3, description="Attempts lost in a row, with no checkpoint in between, that make a job fail."
    )
    max_run_seconds: PositiveFloat = Field(
        30 * 86_400,
        description="Longest a run may have a worker since it was created or resumed; its spec may say less.",
    )
    worker_timeout_seconds: PositiveFloat = Field(60, description="A worker silent for this long is no longer listed.")

    # What is kept
    warm_seconds: PositiveFloat = Field(
        300, description="A worker lets go of loaded models and rewards when no request has come for this long."
    )
    max_log_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**34,
        description="Of what one attempt's process prints, the first so many bytes; its file is cut at twice that.",
    )
    orphan_seconds: PositiveFloat = Field(
        86_400, description="Artifacts that no row names are collected when the job in their key is older than this."
    )
    collect_seconds: PositiveFloat = Field(3600, description="Seconds between two searches for such artifacts.")
    idempotency_seconds: PositiveFloat = Field(7 * 86_400, description="How long an Idempotency-Key is remembered.")

    # Limits on requests and answers
    max_upload_bytes: PositiveInt = Field(2 * 2**30, description="Largest imported LoRA file, bytes.")
    max_results_bytes: PositiveInt = Field(
        128 * 2**20, description="Largest result file that is scored again, bytes; it is written to disk first."
    )
    max_prompt_set_bytes: PositiveInt = Field(
        64 * 2**20, le=2**30, description="Largest file of prompts, bytes; it is written to disk first."
    )
    max_prompt_set_prompts: PositiveInt = Field(
        1_000_000, description="Most different prompts of one such file; while it is read each takes about 130 bytes."
    )
    max_prompts: PositiveInt = Field(10_000, description="Most prompts that one request may list.")
    max_run_nfe: PositiveInt = Field(100_000_000_000, description="Most NFE that a run's plan may cost.")
    max_body_bytes: PositiveInt = Field(32 * 2**20, description="Largest request body, bytes.")
    max_wait_seconds: PositiveFloat = Field(60, description="Longest wait that `Prefer: wait=N` is granted.")
    max_streams: PositiveInt = Field(1000, description="Most event streams that one API process keeps open.")
    max_stream_seconds: PositiveFloat = Field(
        3600, description="A stream older than this is closed; its client goes on with another."
    )
    max_images: PositiveInt = Field(1024, description="Most images of one generation.")
    max_pixels: PositiveInt = Field(2**30, description="Most pixels of one generation or scoring, over all its images.")
    max_score_images: PositiveInt = Field(256, description="Most images of one scoring.")
    max_score_image_bytes: PositiveInt = Field(16 * 2**20, description="Largest file of an image to be scored, bytes.")
    max_score_image_pixels: PositiveInt = Field(2**24, description="Largest image to be scored, pixels.")
    max_evaluation_images: PositiveInt = Field(20_000, description="Most images of one evaluation.")
    max_grid_pixels: PositiveInt = Field(64_000_000, description="Largest comparison grid, pixels.")
    log_chunk_bytes: PositiveInt = Field(256 * 1024, description="Most bytes of log in one answer or row.")
    database_pool: PositiveInt = Field(12, description="Most connections a process holds to the database.")
    connect_seconds: PositiveInt = Field(5, description="Longest wait for a connection to the database.")

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "Settings":
        if 2 * self.renew_seconds > self.lease_seconds:
            raise ValueError(
                f"renew_seconds {self.renew_seconds} must be at most half of lease_seconds {self.lease_seconds}: "
                "a lease must bear a renewal that fails"
            )
        return self

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: str) -> str:
        for plain in ("postgresql://", "postgres://"):
            if url.startswith(plain):
                url = "postgresql+psycopg://" + url.removeprefix(plain)
        if not url.startswith("postgresql+psycopg://"):
            raise ValueError("the database must be PostgreSQL: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")
        try:
            make_url(url)
        except (ArgumentError, ValueError):
            raise ValueError(_UNREADABLE) from None
        return url

    @field_validator("catalog", mode="before")
    @classmethod
    def _empty_is_unset(cls, catalog: object) -> object:
        return catalog or None

    @field_validator("broker_url")
    @classmethod
    def _readable(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise ValueError(_UNREADABLE) from None
        if not parts.scheme:
            raise ValueError("the broker is named by a URL, such as redis://:PASSWORD@HOST:6379/0")
        return url

    @field_validator("admin_key")
    @classmethod
    def _well_formed(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            try:
                check_form(key.get_secret_value())
            except ValueError as error:
                raise ValueError(f"{error}; `g2rpo keys new` makes one") from None
        return key

    @property
    def artifacts_url(self) -> str:
        """The artifact store's fsspec URL."""
        return self.storage_url or f"file://{(self.data_dir / 'artifacts').resolve()}"


READ_ELSEWHERE = frozenset({"G2RPO_URL", "G2RPO_API_KEY", "G2RPO_PORT", "G2RPO_COMMIT", "G2RPO_PARENT_FD"})
"""Variables with our prefix that are no settings: of the command line, build and training process."""


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables with our prefix that nothing reads, each with the name that was probably meant."""
    known = {f"G2RPO_{name.upper()}" for name in Settings.model_fields} | READ_ELSEWHERE
    unknown = sorted(name for name in environment if name.startswith("G2RPO_") and name not in known)
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), None) for name in unknown}


def what_is_wrong(error: ValidationError) -> str:
    """Why settings were refused, by variable, without the values: some are secret."""
    return "; ".join(
        (f"G2RPO_{'.'.join(map(str, one['loc'])).upper()}: " if one["loc"] else "")
        + one["msg"].removeprefix("Value error, ")
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )
