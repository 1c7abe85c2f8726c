"""Each order knows its units, and is found by its buyer through one index.

What a user has bought is asked at each sale: without the sum, the lines of all their orders are
fetched from all over a large ledger. The index of users is the head of that of their keys; a second
one only costs a page at each sale.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    units = sa.Column("units", sa.Integer(), nullable=False, server_default="0")
    op.add_column("purchase", units)
    op.execute(
        "UPDATE purchase SET units = coalesce((SELECT sum(quantity) FROM purchase_line "
        "WHERE purchase_id = purchase.id), 0)"
    )
    op.drop_index("ix_purchase_user_id", "purchase")


def downgrade() -> None:
    op.create_index("ix_purchase_user_id", "purchase", ["user_id"], unique=False)
    op.drop_column("purchase", "units")
