"""Cancellations are found without a look at all that was sold since the last one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    cancelled = sa.text("reason = 'cancelled'")
    op.create_index(
        "ix_stock_event_cancelled",
        "stock_event",
        ["id"],
        unique=False,
        sqlite_where=cancelled,
        postgresql_where=cancelled,
    )


def downgrade() -> None:
    op.drop_index("ix_stock_event_cancelled", "stock_event")
