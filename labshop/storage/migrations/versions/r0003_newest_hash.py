"""Each product knows the hash of its newest event, so that a sale need not look for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    hashes = sa.Column("newest_hash", sa.String(length=64), nullable=False, server_default="")
    op.add_column("product", hashes)
    op.execute(
        "UPDATE product SET newest_hash = coalesce((SELECT hash FROM stock_event "
        "WHERE product_id = product.id ORDER BY id DESC LIMIT 1), '')"
    )


def downgrade() -> None:
    op.drop_column("product", "newest_hash")
