"""All settings of the service, in one class that reads environment variables `G2RPO_<NAME>` or arguments.

`create_app` passes them to the API. A worker gets them from `service.db.session.connect` as `database.settings`.
"""

import difflib
from collections.abc import Mapping
from ipaddress import ip_network
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

from service.core.api_key_format import check_format

_UNREADABLE = (
    "the URL cannot be read: the port must be a number; in user and password write %25 for %, %2F for /, %3A for :, "
    "%40 for @"
)


class Settings(BaseSettings):
    """The addresses, limits and durations that configure the service."""

    model_config = SettingsConfigDict(env_prefix="G2RPO_", extra="ignore", frozen=True, hide_input_in_errors=True)

    # Addresses
    database_url: str = Field(
        "postgresql+psycopg://localhost/g2rpo", repr=False, description="URL of PostgreSQL 15 or newer, for psycopg 3."
    )
    broker_url: str = Field(
        "redis://localhost:6379/0",
        repr=False,
        description="URL of Redis or Valkey, which wakes workers and counts requests.",
    )
    data_dir: Path = Field(Path(".g2rpo"), description="Local directory for files of this process.")
    storage_url: str | None = Field(None, description="fsspec URL of the artifact store; default: data_dir/artifacts.")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path prefix, such as `/g2rpo`, that a proxy in front of the API removes from requests.",
    )
    trusted_proxies: str = Field(
        "",
        description="Comma-separated addresses or networks of proxies in front of the API. Only their "
        "`X-Forwarded-For` and `X-Forwarded-Proto` headers are used.",
    )
    min_free_bytes: NonNegativeInt = Field(
        2**30, description="Minimum free space required in the artifact store, bytes."
    )
    catalog: Path | None = Field(
        None, description="YAML file of models, rewards, prompt sets and judges. Workers read the environment variable."
    )
    log_level: str = Field("INFO", description="Lowest log level that is written.")

    # Keys and quotas
    admin_key: SecretStr | None = Field(
        None, description="Admin key from `g2rpo keys new`; a new value revokes the previous key."
    )
    max_open_jobs: PositiveInt = Field(1000, description="Maximum number of unfinished, unpaused jobs per key.")
    requests_per_minute: PositiveInt = Field(6000, description="Maximum number of requests per key and minute.")

    # Jobs
    lease_seconds: PositiveFloat = Field(
        30, description="Lifetime of a lease. After it, other workers may claim the job."
    )
    renew_seconds: PositiveFloat = Field(10, description="Seconds between renewals of a lease.")
    reconcile_seconds: PositiveFloat = Field(15, description="Seconds between searches for missed jobs.")
    progress_timeout_seconds: PositiveFloat = Field(
        1800, description="Maximum time for which a process may make no progress."
    )
    cancel_grace_seconds: PositiveFloat = Field(
        120, description="Grace period before SIGTERM, in addition to the time of two steps."
    )
    drain_seconds: PositiveFloat = Field(60, description="Time for a job to save its state when its worker stops.")
    max_attempts: PositiveInt = Field(3, description="Number of consecutive lost attempts after which a job fails.")
    worker_memory_bytes: PositiveInt | None = Field(
        None, description="Maximum memory of a job's processes, bytes; default: 80% of the machine or container."
    )
    max_run_seconds: PositiveFloat = Field(
        30 * 86_400, description="Maximum running time since creation or the last resume."
    )
    job_niceness: int = Field(
        5, ge=0, le=19, description="Niceness of training and evaluation processes, so that the API responds first."
    )
    worker_timeout_seconds: PositiveFloat = Field(60, description="Maximum heartbeat age of a listed worker.")

    # Storage
    model_cache_seconds: PositiveFloat = Field(300, description="Idle time after which a worker releases its models.")
    max_log_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**34,
        description="Maximum stored size of an attempt's log, bytes. The file may be twice as large.",
    )
    orphan_seconds: PositiveFloat = Field(
        86_400, description="Minimum age at which unreferenced artifacts are deleted."
    )
    collect_seconds: PositiveFloat = Field(3600, description="Seconds between searches for unreferenced artifacts.")
    idempotency_seconds: PositiveFloat = Field(7 * 86_400, description="Lifetime of an Idempotency-Key.")

    # Limits of requests and responses
    max_upload_bytes: PositiveInt = Field(2 * 2**30, description="Maximum size of an imported LoRA file, bytes.")
    max_results_bytes: PositiveInt = Field(128 * 2**20, description="Maximum size of a result file to rescore, bytes.")
    max_prompt_set_bytes: PositiveInt = Field(64 * 2**20, le=2**30, description="Maximum size of a prompt file, bytes.")
    max_prompt_set_prompts: PositiveInt = Field(
        1_000_000, description="Maximum number of distinct prompts in a file; each needs about 130 bytes."
    )
    max_prompts: PositiveInt = Field(10_000, description="Maximum number of prompts in a request.")
    max_run_nfe: PositiveInt = Field(100_000_000_000, description="Maximum NFE of a run's plan.")
    max_body_bytes: PositiveInt = Field(
        32 * 2**20, description="Maximum size of a run, a plan or the images to score in a request body, bytes."
    )
    max_json_bytes: PositiveInt = Field(4 * 2**20, description="Maximum size of any other JSON body, bytes.")
    max_wait_seconds: PositiveFloat = Field(60, description="Maximum N in `Prefer: wait=N`.")
    max_streams: PositiveInt = Field(1000, description="Maximum number of event streams per API process.")
    max_stream_seconds: PositiveFloat = Field(3600, description="Maximum age of a stream; clients reconnect.")
    max_images: PositiveInt = Field(1024, description="Maximum number of images in a generation.")
    max_pixels: PositiveInt = Field(2**30, description="Maximum number of pixels in a generation or score.")
    max_score_images: PositiveInt = Field(256, description="Maximum number of images in a score.")
    max_score_image_bytes: PositiveInt = Field(16 * 2**20, description="Maximum size of an image file to score, bytes.")
    max_score_image_pixels: PositiveInt = Field(2**24, description="Maximum size of an image to score, pixels.")
    max_evaluation_images: PositiveInt = Field(20_000, description="Maximum number of images in an evaluation.")
    max_grid_pixels: PositiveInt = Field(64_000_000, description="Maximum size of an image grid, pixels.")
    log_chunk_bytes: PositiveInt = Field(256 * 1024, description="Maximum size of a log part in a response, bytes.")
    database_pool: PositiveInt = Field(12, description="Maximum number of database connections per process.")
    connect_seconds: PositiveInt = Field(5, description="Maximum wait for a database connection.")

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "Settings":
        if 2 * self.renew_seconds > self.lease_seconds:
            raise ValueError(
                f"renew_seconds {self.renew_seconds} must be at most half of lease_seconds {self.lease_seconds}: "
                "a lease must outlast one failed renewal"
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

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        for proxy in filter(None, proxies.split(",")):
            ip_network(proxy.strip())  # raises ValueError with the address
        return proxies

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
            raise ValueError("the broker must be a URL, such as redis://:PASSWORD@HOST:6379/0")
        return url

    @field_validator("admin_key")
    @classmethod
    def _well_formed(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            try:
                check_format(key.get_secret_value())
            except ValueError as error:
                raise ValueError(f"{error}; `g2rpo keys new` prints a valid key") from None
        return key

    @property
    def artifacts_url(self) -> str:
        """The artifact store's fsspec URL."""
        return self.storage_url or f"file://{(self.data_dir / 'artifacts').resolve()}"


WAKE_TASK = "jobs.wake"
"""Name of the workers' only Celery task. Its arguments are the queue and, for the log, the id of a new job."""
READ_ELSEWHERE = frozenset({"G2RPO_URL", "G2RPO_API_KEY", "G2RPO_PORT", "G2RPO_COMMIT", "G2RPO_PARENT_FD"})
"""Variables with the prefix `G2RPO_` that the command line, build or training process reads, so not settings."""


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Map each unknown `G2RPO_` variable to the most similar known name, or None if no known name is similar."""
    known = {f"G2RPO_{name.upper()}" for name in Settings.model_fields} | READ_ELSEWHERE
    unknown = sorted(name for name in environment if name.startswith("G2RPO_") and name not in known)
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), None) for name in unknown}


def what_is_wrong(error: ValidationError) -> str:
    """Describe, by variable, why settings are invalid. Values are not shown because some are secret."""
    return "; ".join(
        (f"G2RPO_{'.'.join(map(str, one['loc'])).upper()}: " if one["loc"] else "")
        + one["msg"].removeprefix("Value error, ")
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )
