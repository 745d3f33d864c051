"""Create the first schema."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TIME = sa.DateTime(timezone=True)


def required(name: str, type_: Any, *args: Any, **options: Any) -> sa.Column[Any]:
    """Return a column that must not be null."""
    return sa.Column(name, type_, *args, nullable=False, **options)


def timestamp(name: str, **options: Any) -> sa.Column[Any]:
    """Return a timestamp column that must not be null and defaults to the time of insertion."""
    return required(name, TIME, server_default=sa.text("now()"), **options)


def identifier() -> sa.Column[Any]:
    """Return a primary key column whose values the service generates."""
    return sa.Column("id", sa.Uuid(), primary_key=True)


def owner(kind: str, **options: Any) -> sa.Column[Any]:
    """Return a reference to the job that a row belongs to. Deleting the job also deletes the row."""
    return required(f"{kind}_id", sa.Uuid(), sa.ForeignKey(f"{kind}s.id", ondelete="CASCADE"), **options)


def creator(**options: Any) -> sa.Column[Any]:
    """Return a reference to the API key of the request that created the row."""
    return sa.Column("created_by", sa.Uuid(), sa.ForeignKey("api_keys.id"), **options)


def stored_file() -> list[sa.Column[Any]]:
    """Return the columns that describe a file in the artifact store."""
    return [required("key", sa.Text()), required("sha256", sa.Text()), required("size", sa.BigInteger())]


def specification() -> list[sa.Column[Any]]:
    """Return the columns for a job's request and the specification that it was resolved to."""
    return [required("requested", JSONB()), required("spec", JSONB()), required("spec_version", sa.Integer())]


def supervised_columns() -> list[sa.Column[Any]]:
    """Return the columns of jobs that have attempts, events and a log."""
    return [
        required("resumed_attempt", sa.Integer(), server_default="0"),
        required("seconds_used", sa.Double(), server_default="0"),
        required("last_event", sa.BigInteger(), server_default="0"),
    ]


def create_job_table(name: str, *columns: sa.Column[Any]) -> None:
    """Create the table for a kind of job, with its own columns, the columns of every job, and queue indexes."""
    open_states = ["queued", "starting", "running", "pausing", "paused", "cancelling", "interrupted"]
    states = [*open_states, "succeeded", "failed", "cancelled"]
    status = sa.Enum(*states, name="status", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        name,
        *columns,
        identifier(),
        required("status", status),
        required("priority", sa.Integer()),
        timestamp("created_at"),
        creator(index=True),
        timestamp("queued_at"),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        required("attempt", sa.Integer()),
        required("losses", sa.Integer(), server_default="0"),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_expires_at", TIME),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("progress", JSONB()),
        sa.Column("error", JSONB()),
    )
    for index, indexed, condition in (
        ("claimable", ["priority", "created_at", "id"], "IN ('interrupted', 'queued')"),
        ("held", ["lease_expires_at"], "IN ('cancelling', 'pausing', 'running', 'starting')"),
        ("open", ["created_by"], "NOT IN ('cancelled', 'failed', 'succeeded')"),
    ):
        op.create_index(f"ix_{name}_{index}", name, indexed, postgresql_where=sa.text(f"status {condition}"))


def create_attempts(name: str, kind: str, *columns: sa.Column[Any]) -> None:
    """Create the table of attempts for a kind of job."""
    op.create_table(
        name,
        owner(kind, primary_key=True),
        *columns,
        sa.Column("number", sa.Integer(), primary_key=True),
        required("worker", sa.Text()),
        sa.Column("provenance", JSONB()),
        timestamp("started_at"),
        sa.Column("ended_at", TIME),
        sa.Column("outcome", sa.Text()),
        required("lost", sa.Boolean(), server_default=sa.text("false")),
        required("events_offset", sa.BigInteger()),
        required("log_offset", sa.BigInteger()),
    )


def create_events(name: str, kind: str) -> None:
    """Create the table of events for a kind of job."""
    op.create_table(
        name,
        owner(kind, primary_key=True),
        sa.Column("id", sa.BigInteger(), primary_key=True),
        required("attempt", sa.Integer()),
        timestamp("time"),
        required("type", sa.Text()),
        required("data", JSONB()),
    )


def create_log(name: str, kind: str) -> None:
    """Create the table of logs for a kind of job."""
    op.create_table(
        name,
        owner(kind, primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True),
        sa.Column("offset", sa.BigInteger(), primary_key=True),
        required("data", sa.LargeBinary()),
    )


def create_shared_tables() -> None:
    """Create the tables that do not belong to a kind of job."""
    op.create_table(
        "api_keys",
        identifier(),
        required("name", sa.Text()),
        required("prefix", sa.Text(), unique=True),
        required("hash", sa.Text()),
        required("scopes", ARRAY(sa.Text())),
        sa.Column("max_open_jobs", sa.Integer()),
        sa.Column("requests_per_minute", sa.Integer()),
        timestamp("created_at"),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
    )
    op.create_table(
        "benchmarks",
        identifier(),
        required("name", sa.Text()),
        required("content_sha256", sa.Text()),
        required("data_sha256", sa.Text()),
        required("pinned", sa.Boolean()),
        required("prompt_count", sa.Integer()),
        required("point_count", sa.Integer()),
        required("about", JSONB()),
        required("prompts", JSONB()),
        timestamp("imported_at"),
        sa.UniqueConstraint("name", "content_sha256"),
    )
    op.create_index("ix_benchmarks_name_imported_at", "benchmarks", ["name", "imported_at"])
    op.create_table(
        "deployments",
        sa.Column("id", sa.Uuid(), primary_key=True, server_default=sa.text("gen_random_uuid()")),
        timestamp("created_at"),
    )
    op.create_table("garbage", sa.Column("prefix", sa.Text(), primary_key=True), timestamp("created_at"))
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Uuid(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        required("fingerprint", sa.Text()),
        sa.Column("resource_id", sa.Uuid()),
        timestamp("created_at", index=True),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), primary_key=True),
        required("queue", sa.Text()),
        required("device", sa.Text()),
        required("stats", JSONB(), server_default="{}"),
        timestamp("started_at"),
        timestamp("heartbeat_at"),
    )
    op.create_table(
        "prompt_sets",
        identifier(),
        required("upload_id", sa.Uuid(), index=True),
        required("name", sa.Text()),
        required("description", sa.Text()),
        required("format", sa.Text()),
        required("counts", JSONB()),
        sa.Column("split", JSONB()),
        required("prompts", sa.Integer()),
        *stored_file(),
        timestamp("created_at"),
        creator(),
        sa.Column("deleted_at", TIME),
    )
    not_deleted = sa.text("deleted_at IS NULL")
    op.create_index("uq_prompt_sets_name", "prompt_sets", ["name"], unique=True, postgresql_where=not_deleted)


def create_run_tables() -> None:
    """Create `runs`, `checkpoints` and the tables of run records."""
    create_job_table(
        "runs",
        required("name", sa.Text()),
        required("notes", sa.Text(), server_default=""),
        required("labels", JSONB()),
        required("model", sa.Text(), index=True),
        required("algorithm", sa.Text()),
        *specification(),
        required("plan", JSONB()),
        required("seed", sa.BigInteger()),
        required("prompt_sets", JSONB(), server_default="{}"),
        sa.Column("start_from", sa.Uuid(), index=True),
        sa.Column("parent_id", sa.Uuid(), sa.ForeignKey("runs.id", ondelete="SET NULL"), index=True),
        required("max_steps", sa.Integer()),
        required("checkpoint_requests", sa.Integer(), server_default="0"),
        required("checkpoint_answers", sa.Integer(), server_default="0"),
        sa.Column("heldout", JSONB()),
        *supervised_columns(),
    )
    labels = {"labels": "jsonb_path_ops"}
    op.create_index("ix_runs_labels", "runs", ["labels"], postgresql_using="gin", postgresql_ops=labels)
    op.create_table(
        "checkpoints",
        identifier(),
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("runs.id")),
        required("name", sa.Text(), server_default=""),
        required("attempt", sa.Integer()),
        required("step", sa.Integer()),
        required("kind", sa.Text()),
        required("model", sa.Text()),
        sa.Column("architecture", sa.Text()),
        required("manifest", JSONB()),
        required("key", sa.Text()),
        required("size", sa.BigInteger()),
        timestamp("created_at"),
        creator(),
        sa.Column("best_value", sa.Double()),
        required("damaged", sa.Boolean(), server_default=sa.text("false")),
        sa.Column("deleted_at", TIME),
        sa.UniqueConstraint("run_id", "step", "attempt"),
    )
    op.create_foreign_key("fk_runs_start_from", "runs", "checkpoints", ["start_from"], ["id"])
    create_attempts("attempts", "run", required("resumed_at", sa.Integer()), required("max_steps", sa.Integer()))
    create_events("run_events", "run")
    create_log("log_chunks", "run")
    op.create_table(
        "metrics",
        owner("run"),
        required("name", sa.Text()),
        required("step", sa.Integer()),
        required("attempt", sa.Integer()),
        sa.Column("value", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "name", "step", "attempt", postgresql_include=["value"]),
    )
    op.create_table(
        "reward_groups",
        owner("run"),
        required("step", sa.Integer()),
        required("prompt_index", sa.Integer()),
        required("sde_step", sa.Integer()),
        required("granularity", sa.Integer()),
        required("reward", sa.Text()),
        required("attempt", sa.Integer()),
        required("prompt", sa.Text()),
        required("values", ARRAY(sa.REAL())),
        sa.PrimaryKeyConstraint("run_id", "step", "prompt_index", "sde_step", "granularity", "reward", "attempt"),
    )
    op.create_table(
        "samples",
        identifier(),
        owner("run"),
        required("attempt", sa.Integer()),
        required("step", sa.Integer()),
        required("kind", sa.Text()),
        required("index", sa.Integer()),
        required("prompt", sa.Text()),
        required("rewards", JSONB()),
        sa.Column("sde_step", sa.Integer()),
        sa.Column("granularity", sa.Integer()),
        *stored_file(),
        sa.UniqueConstraint("run_id", "step", "kind", "index", "attempt"),
    )


def create_evaluation_tables() -> None:
    """Create `evaluations` and the tables of evaluation records."""
    create_job_table(
        "evaluations",
        required("name", sa.Text()),
        *specification(),
        required("model", sa.Text(), index=True),
        sa.Column("checkpoint_id", sa.Uuid(), sa.ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True),
        required("benchmark_id", sa.Uuid(), sa.ForeignKey("benchmarks.id"), index=True),
        sa.Column("judge", JSONB()),
        required("prompts", JSONB()),
        required("total_images", sa.Integer()),
        sa.Column("scores", JSONB()),
        sa.Column("rewards", JSONB()),
        *supervised_columns(),
    )
    create_attempts("evaluation_attempts", "evaluation")
    create_events("evaluation_events", "evaluation")
    create_log("evaluation_log_chunks", "evaluation")
    op.create_table(
        "evaluation_images",
        owner("evaluation", primary_key=True),
        sa.Column("index", sa.Integer(), primary_key=True),
        sa.Column("image_index", sa.Integer(), primary_key=True),
        required("seed", sa.BigInteger()),
        required("rewards", JSONB()),
        *stored_file(),
    )
    op.create_table(
        "evaluation_answers",
        owner("evaluation", primary_key=True),
        sa.Column("index", sa.Integer(), primary_key=True),
        sa.Column("image_index", sa.Integer(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("scores", JSONB()),
        sa.Column("failure", sa.Text()),
        sa.Column("text", sa.Text()),
        required("error", sa.Text(), server_default=""),
        required("seconds", sa.Double()),
        timestamp("answered_at"),
    )


def upgrade() -> None:
    create_shared_tables()
    create_job_table("generations", *specification())
    op.create_table(
        "generation_images",
        owner("generation", primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        required("checkpoint", sa.Text()),
        required("prompt_index", sa.Integer()),
        required("image_index", sa.Integer()),
        required("seed", sa.BigInteger()),
        *stored_file(),
    )
    create_job_table(
        "scores",
        *specification(),
        required("total_images", sa.Integer()),
        sa.Column("rewards", JSONB()),
    )
    op.create_table(
        "score_images",
        owner("score", primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        required("prompt", sa.Text()),
        required("width", sa.Integer()),
        required("height", sa.Integer()),
        *stored_file(),
        sa.Column("values", JSONB()),
    )
    create_run_tables()
    create_evaluation_tables()
    op.execute("INSERT INTO deployments DEFAULT VALUES")


def downgrade() -> None:
    op.execute("""
        DROP TABLE
            api_keys, benchmarks, deployments, garbage, idempotency_keys, workers, prompt_sets,
            generations, generation_images, scores, score_images,
            runs, checkpoints, attempts, run_events, log_chunks, metrics, reward_groups, samples,
            evaluations, evaluation_attempts, evaluation_events, evaluation_log_chunks, evaluation_images,
            evaluation_answers
        CASCADE
    """)
