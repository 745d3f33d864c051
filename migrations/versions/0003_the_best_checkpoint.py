"""The best checkpoint of a run."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("best_value", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("checkpoints", "best_value")
