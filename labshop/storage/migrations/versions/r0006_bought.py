"""What a user has bought is summed in an index, without a look at each of their orders."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = ["user_id", "sale_id", "status", "units"]


def upgrade() -> None:
    op.create_index("ix_purchase_bought", "purchase", COLUMNS, unique=False)


def downgrade() -> None:
    op.drop_index("ix_purchase_bought", "purchase")
