"""Pausing and resuming, keys, idempotency, clones, imported and deleted checkpoints, what the store need not keep."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)
_STATUSES = ("queued", "starting", "running", "cancelling", "interrupted", "succeeded", "failed", "cancelled")
_NEW_STATUSES = ("pausing", "paused")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False),
        sa.Column("max_open_jobs", sa.Integer(), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.Column("last_used_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "garbage",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name="pk_garbage"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.Uuid(), server_default=sa.func.gen_random_uuid(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.execute("INSERT INTO deployments DEFAULT VALUES")
    for table in ("runs", "generations"):
        op.add_column(table, sa.Column("created_by", sa.Uuid(), nullable=True))
        op.create_foreign_key(f"fk_{table}_created_by", table, "api_keys", ["created_by"], ["id"])
        op.create_index(f"ix_{table}_created_by", table, ["created_by"])
        op.add_column(table, sa.Column("queued_at", _TIME, server_default=sa.func.now(), nullable=False))
        jobs = _jobs(table)
        op.execute(jobs.update().values(queued_at=jobs.c.created_at))
        op.add_column(table, sa.Column("losses", sa.Integer(), server_default="0", nullable=False))
        _allow(table, (*_STATUSES, *_NEW_STATUSES))
        _index_held(table, ("cancelling", "pausing", "running", "starting"))

    op.add_column("runs", sa.Column("notes", sa.Text(), server_default="", nullable=False))
    op.add_column("runs", sa.Column("parent_id", sa.Uuid(), nullable=True))
    op.create_foreign_key("fk_runs_parent_id", "runs", "runs", ["parent_id"], ["id"], ondelete="SET NULL")
    op.create_index("ix_runs_parent_id", "runs", ["parent_id"])
    op.add_column("runs", sa.Column("resumed_attempt", sa.Integer(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("seconds_used", sa.Double(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("checkpoint_requests", sa.Integer(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("checkpoint_answers", sa.Integer(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("max_steps", sa.Integer(), nullable=True))
    op.execute("UPDATE runs SET max_steps = (spec #>> '{training,max_steps}')::integer")
    op.alter_column("runs", "max_steps", nullable=False)

    op.add_column("attempts", sa.Column("lost", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("attempts", sa.Column("max_steps", sa.Integer(), nullable=True))
    op.execute("UPDATE attempts SET max_steps = runs.max_steps FROM runs WHERE runs.id = attempts.run_id")
    op.alter_column("attempts", "max_steps", nullable=False)

    op.alter_column("checkpoints", "run_id", nullable=True)
    op.alter_column("checkpoints", "architecture", nullable=True)
    op.add_column("checkpoints", sa.Column("name", sa.Text(), server_default="", nullable=False))
    op.add_column("checkpoints", sa.Column("deleted_at", _TIME, nullable=True))
    op.add_column("checkpoints", sa.Column("damaged", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("checkpoints", sa.Column("created_by", sa.Uuid(), nullable=True))
    op.create_foreign_key("fk_checkpoints_created_by", "checkpoints", "api_keys", ["created_by"], ["id"])

    op.add_column("workers", sa.Column("stats", JSONB(), server_default="{}", nullable=False))


def downgrade() -> None:
    """Paused jobs become cancelled; imported and deleted checkpoints go."""
    _remove_checkpoints()
    op.drop_column("workers", "stats")
    for column in ("created_by", "damaged", "deleted_at", "name"):
        op.drop_column("checkpoints", column)
    op.alter_column("checkpoints", "architecture", nullable=False)
    op.alter_column("checkpoints", "run_id", nullable=False)
    for column in ("max_steps", "lost"):
        op.drop_column("attempts", column)
    for column in ("max_steps", "checkpoint_answers", "checkpoint_requests", "seconds_used"):
        op.drop_column("runs", column)
    for column in ("resumed_attempt", "parent_id", "notes"):
        op.drop_column("runs", column)
    for table in ("runs", "generations"):
        jobs = _jobs(table)
        resting = jobs.update().where(jobs.c.status.in_(_NEW_STATUSES))
        op.execute(resting.values(status="cancelled", ended_at=sa.func.now()))
        _index_held(table, ("cancelling", "running", "starting"))
        _allow(table, _STATUSES)
        for column in ("losses", "queued_at", "created_by"):
            op.drop_column(table, column)
    for table in ("deployments", "garbage", "idempotency_keys", "api_keys"):
        op.drop_table(table)


def _remove_checkpoints() -> None:
    """Those that the old schema cannot hold: it wants a run, and would show as live what was deleted."""
    checkpoints, runs = sa.table("checkpoints", *map(sa.column, ("id", "run_id", "deleted_at"))), _jobs("runs")
    gone = sa.or_(checkpoints.c.run_id.is_(None), checkpoints.c.deleted_at.is_not(None))
    from_them = runs.c.start_from.in_(sa.select(checkpoints.c.id).where(gone))
    ended = runs.c.status.in_(("succeeded", "failed", "cancelled"))
    saved = sa.exists().where(checkpoints.c.run_id == runs.c.id, checkpoints.c.deleted_at.is_(None))
    # A run that has saved nothing yet would begin from the base model, which nobody asked for.
    lost = runs.update().where(from_them, ~ended, ~saved)
    op.execute(lost.values(status="cancelled", ended_at=sa.func.now()))
    op.execute(runs.update().where(from_them).values(start_from=None))
    op.execute(checkpoints.delete().where(gone))


def _jobs(table: str) -> sa.TableClause:
    return sa.table(table, *map(sa.column, ("id", "created_at", "queued_at", "ended_at", "status", "start_from")))


def _allow(table: str, statuses: Sequence[str]) -> None:
    op.drop_constraint(f"ck_{table}_status", table)
    op.create_check_constraint(op.f(f"ck_{table}_status"), table, f"status IN ({', '.join(map(repr, statuses))})")


def _index_held(table: str, statuses: Sequence[str]) -> None:
    op.drop_index(f"ix_{table}_held", table)
    held = sa.text(f"status IN ({', '.join(map(repr, statuses))})")
    op.create_index(f"ix_{table}_held", table, ["lease_expires_at"], postgresql_where=held)
