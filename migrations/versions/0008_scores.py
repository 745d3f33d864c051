"""Given images, scored."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATES = (
    "'queued', 'starting', 'running', 'pausing', 'paused', 'cancelling', 'interrupted', 'succeeded', 'failed', "
    "'cancelled'"
)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "scores",
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
        sa.Column("requested", JSONB(), nullable=False),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("total_images", sa.Integer(), nullable=False),
        sa.Column("rewards", JSONB(), nullable=True),
        sa.CheckConstraint(f"status IN ({_STATES})", name="ck_scores_status"),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_scores_created_by"),
        sa.PrimaryKeyConstraint("id", name="pk_scores"),
    )
    op.create_index("ix_scores_created_by", "scores", ["created_by"])
    op.create_index(
        "ix_scores_claimable",
        "scores",
        ["priority", "created_at", "id"],
        postgresql_where=sa.text("status IN ('interrupted', 'queued')"),
    )
    op.create_index(
        "ix_scores_held",
        "scores",
        ["lease_expires_at"],
        postgresql_where=sa.text("status IN ('cancelling', 'pausing', 'running', 'starting')"),
    )
    op.create_index(
        "ix_scores_open",
        "scores",
        ["created_by"],
        postgresql_where=sa.text("status NOT IN ('cancelled', 'failed', 'succeeded')"),
    )
    op.create_table(
        "score_images",
        sa.Column("score_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("values", JSONB(), nullable=True),
        sa.ForeignKeyConstraint(["score_id"], ["scores.id"], name="fk_score_images_score_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("score_id", "number", name="pk_score_images"),
    )


def downgrade() -> None:
    op.drop_table("score_images")
    op.drop_table("scores")
