"""What payment intents were made for: only those of no invoice are announced themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("payment_intents", sa.Column("order_reference", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("payment_intents", "order_reference")
