"""The usage ledger: events, their totals, and the leases of those who send them on."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("corrects", sa.Text(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('held', 'pending', 'sent', 'failed', 'expired', 'canceling', 'canceled')",
            name=op.f("ck_usage_events_status"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_usage_events")),
        sa.UniqueConstraint("id", name=op.f("uq_usage_events_id")),
    )
    op.create_index(
        "ix_usage_events_due",
        "usage_events",
        ["subject", "meter", "next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'canceling')"),
    )
    op.create_index(
        "ix_usage_events_held", "usage_events", ["subject"], unique=False, postgresql_where=sa.text("status = 'held'")
    )
    op.create_index(
        "ix_usage_events_identifier",
        "usage_events",
        ["identifier"],
        unique=True,
        postgresql_where=sa.text("identifier IS NOT NULL"),
    )
    op.create_index("ix_usage_events_subject", "usage_events", ["subject", "meter", "timestamp"], unique=False)
    op.create_index(
        "ix_usage_events_unsettled",
        "usage_events",
        ["status", "seq"],
        unique=False,
        postgresql_where=sa.text("status <> 'sent'"),
    )
    op.create_table(
        "usage_leases",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject", "meter", name=op.f("pk_usage_leases")),
    )
    op.create_table(
        "usage_totals",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("period_end", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.BigInteger(), nullable=False),
        sa.Column("allowed", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("subject", "meter", "period_start", name=op.f("pk_usage_totals")),
    )


def downgrade() -> None:
    op.drop_table("usage_totals")
    op.drop_table("usage_leases")
    op.drop_index("ix_usage_events_unsettled", table_name="usage_events")
    op.drop_index("ix_usage_events_subject", table_name="usage_events")
    op.drop_index("ix_usage_events_identifier", table_name="usage_events")
    op.drop_index("ix_usage_events_held", table_name="usage_events")
    op.drop_index("ix_usage_events_due", table_name="usage_events")
    op.drop_table("usage_events")
