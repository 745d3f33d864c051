"""Open jobs are found without reading those that have ended."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_OPEN = sa.text("status NOT IN ('cancelled', 'failed', 'succeeded')")


def upgrade() -> None:
    for table in ("runs", "generations"):
        op.create_index(f"ix_{table}_open", table, ["created_by"], postgresql_where=_OPEN)


def downgrade() -> None:
    for table in ("runs", "generations"):
        op.drop_index(f"ix_{table}_open", table)
