"""Uploaded prompt sets, and which of them a run was accepted with."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "prompt_sets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("counts", JSONB(), nullable=False),
        sa.Column("split", JSONB(), nullable=True),
        sa.Column("prompts", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("deleted_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["api_keys.id"], name="fk_prompt_sets_created_by"),
        sa.PrimaryKeyConstraint("id", name="pk_prompt_sets"),
    )
    op.create_index("ix_prompt_sets_upload_id", "prompt_sets", ["upload_id"])
    op.create_index(
        "uq_prompt_sets_name", "prompt_sets", ["name"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.add_column("runs", sa.Column("prompt_sets", JSONB(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("runs", "prompt_sets")
    op.drop_table("prompt_sets")
