"""Evaluations: models judged on benchmarks."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATES = (
    "'queued', 'starting', 'running', 'pausing', 'paused', 'cancelling', 'interrupted', 'succeeded', 'failed', "
    "'cancelled'"
)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.alter_column("runs", "last_event", server_default="0")
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("queued_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", _TIME, nullable=True),
        sa.Column("cancel_requested_at", _TIME, nullable=True),
        sa.Column("progress", JSONB(), nullable=True),
        sa.Column("error", JSONB(), nullable=True),
        sa.Column("resumed_attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("seconds_used", sa.Double(), server_default="0", nullable=False),
        sa.Column("last_event", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("requested", JSONB(), nullable=False),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("benchmark_id", sa.Uuid(), nullable=False),
        sa.Column("judge", JSONB(), nullable=True),
        sa.Column("prompts", JSONB(), nullable=False),
        sa.Column("total_images", sa.Integer(), nullable=False),
        sa.Column("scores", JSONB(), nullable=True),
        sa.Column("rewards", JSONB(), nullable=True),
        sa.CheckConstraint(f"status IN ({_STATES})", name="ck_evaluations_status"),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_evaluations_created_by"),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name="fk_evaluations_checkpoint_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["benchmark_id"], ["benchmarks.id"], name="fk_evaluations_benchmark_id"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    for column in ("created_by", "model", "checkpoint_id", "benchmark_id"):
        op.create_index(f"ix_evaluations_{column}", "evaluations", [column])
    op.create_index(
        "ix_evaluations_claimable",
        "evaluations",
        ["priority", "created_at", "id"],
        postgresql_where=sa.text("status IN ('interrupted', 'queued')"),
    )
    op.create_index(
        "ix_evaluations_held",
        "evaluations",
        ["lease_expires_at"],
        postgresql_where=sa.text("status IN ('cancelling', 'pausing', 'running', 'starting')"),
    )
    op.create_index(
        "ix_evaluations_open",
        "evaluations",
        ["created_by"],
        postgresql_where=sa.text("status NOT IN ('cancelled', 'failed', 'succeeded')"),
    )
    _part(
        "evaluation_attempts",
        ("number",),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("provenance", JSONB(), nullable=True),
        sa.Column("started_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("lost", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("events_offset", sa.BigInteger(), nullable=False),
        sa.Column("log_offset", sa.BigInteger(), nullable=False),
    )
    _part(
        "evaluation_events",
        ("id",),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("time", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", JSONB(), nullable=False),
    )
    _part(
        "evaluation_log_chunks",
        ("attempt", "offset"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )
    _part(
        "evaluation_images",
        ("index", "image_index"),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("image_index", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("rewards", JSONB(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
    )
    _part(
        "evaluation_answers",
        ("index", "image_index", "number"),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("image_index", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("scores", JSONB(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("answered_at", _TIME, server_default=sa.func.now(), nullable=False),
    )


def downgrade() -> None:
    for table in ("answers", "images", "log_chunks", "events", "attempts"):
        op.drop_table(f"evaluation_{table}")
    op.drop_table("evaluations")
    op.alter_column("runs", "last_event", server_default=None)


def _part(table: str, key: tuple[str, ...], *columns: sa.Column[object]) -> None:
    """A table of things that belong to an evaluation, and go with it."""
    op.create_table(
        table,
        sa.Column("evaluation_id", sa.Uuid(), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=f"fk_{table}_evaluation_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", *key, name=f"pk_{table}"),
    )
