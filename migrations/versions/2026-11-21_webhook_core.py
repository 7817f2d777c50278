"""Room for retention, the outbox, replays, calls, and comparisons with Stripe."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_calls")),
    )
    op.create_index("ix_api_calls_at", "api_calls", ["at"], unique=False)
    op.create_index("ix_api_calls_user_id_id", "api_calls", ["user_id", "id"], unique=False)
    op.create_table(
        "cursors",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursors")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("stripe_event_id", sa.Text(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("key", name=op.f("uq_outbox_key")),
    )
    op.create_index("ix_outbox_customer_id_id", "outbox", ["customer_id", "id"], unique=False)
    op.create_index("ix_outbox_stripe_event_id", "outbox", ["stripe_event_id"], unique=False)
    op.create_table(
        "reconcile_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("repair", sa.Boolean(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("compared", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("drifted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("repaired", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name=op.f("ck_reconcile_runs_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconcile_runs")),
    )
    op.create_index("ix_reconcile_runs_started_at", "reconcile_runs", ["started_at"], unique=False)
    op.create_table(
        "replays",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("filter", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("replayed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("up_to_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('running', 'done')", name=op.f("ck_replays_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
    )
    op.create_table(
        "reconcile_differences",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("repaired", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["reconcile_runs.id"],
            name=op.f("fk_reconcile_differences_run_id_reconcile_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconcile_differences")),
        sa.UniqueConstraint("run_id", "object", "stripe_id", name="uq_reconcile_differences_object"),
    )
    op.create_index(
        "ix_reconcile_differences_about",
        "reconcile_differences",
        ["run_id", sa.literal_column("((fields -> 'object'::text) ->> 1)")],
        unique=False,
        postgresql_where=sa.text("object = 'event'"),
    )
    op.create_index("ix_reconcile_differences_run_id_id", "reconcile_differences", ["run_id", "id"], unique=False)
    op.alter_column("stripe_events", "payload", existing_type=sa.Text(), nullable=True)
    op.drop_index(op.f("ix_stripe_events_status_id"), table_name="stripe_events")
    op.drop_constraint(op.f("uq_stripe_events_account_event_id"), "stripe_events")
    op.create_unique_constraint(op.f("uq_stripe_events_event_id_account"), "stripe_events", ["event_id", "account"])
    op.create_index(
        "ix_stripe_events_due_at",
        "stripe_events",
        ["next_attempt_at", "key"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_stripe_events_kept",
        "stripe_events",
        ["received_at"],
        unique=False,
        postgresql_where=sa.text("payload IS NOT NULL AND status IN ('processed', 'ignored')"),
    )
    op.create_index("ix_stripe_events_type_id", "stripe_events", ["type", "id"], unique=False)
    op.create_index("ix_customers_user_id", "customers", ["user_id"], unique=False)
    op.create_index("ix_stripe_events_key_id", "stripe_events", ["key", "id"], unique=False)
    op.create_index(
        "ix_stripe_events_received_at", "stripe_events", ["received_at"], unique=False, postgresql_using="brin"
    )
    op.create_index(
        "ix_stripe_events_unsettled",
        "stripe_events",
        ["status", "id"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'dead')"),
    )
    for table in ("customers", "invoices", "subscriptions"):
        op.create_index(f"ix_{table}_created", table, ["created"], unique=False)
    # Where this Postgres was built with it, lz4 stores payloads at a third of the default compression's cost.
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
                ALTER TABLE stripe_events ALTER COLUMN payload SET COMPRESSION lz4;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    for table in ("customers", "invoices", "subscriptions"):
        op.drop_index(f"ix_{table}_created", table_name=table)
    op.execute("UPDATE stripe_events SET payload = '{}' WHERE payload IS NULL")
    op.drop_index("ix_customers_user_id", table_name="customers")
    op.drop_index("ix_stripe_events_type_id", table_name="stripe_events")
    op.drop_index(
        "ix_stripe_events_unsettled",
        table_name="stripe_events",
        postgresql_where=sa.text("status IN ('pending', 'dead')"),
    )
    op.drop_index("ix_stripe_events_received_at", table_name="stripe_events", postgresql_using="brin")
    op.drop_index("ix_stripe_events_key_id", table_name="stripe_events")
    op.drop_index(
        "ix_stripe_events_kept",
        table_name="stripe_events",
        postgresql_where=sa.text("payload IS NOT NULL AND status IN ('processed', 'ignored')"),
    )
    op.drop_index("ix_stripe_events_due_at", table_name="stripe_events", postgresql_where=sa.text("status = 'pending'"))
    op.drop_constraint(op.f("uq_stripe_events_event_id_account"), "stripe_events")
    op.create_unique_constraint(op.f("uq_stripe_events_account_event_id"), "stripe_events", ["account", "event_id"])
    op.create_index(op.f("ix_stripe_events_status_id"), "stripe_events", ["status", "id"], unique=False)
    op.alter_column("stripe_events", "payload", existing_type=sa.Text(), nullable=False)
    op.drop_index("ix_reconcile_differences_about", table_name="reconcile_differences")
    op.drop_index("ix_reconcile_differences_run_id_id", table_name="reconcile_differences")
    op.drop_table("reconcile_differences")
    op.drop_table("replays")
    op.drop_index("ix_reconcile_runs_started_at", table_name="reconcile_runs")
    op.drop_table("reconcile_runs")
    op.drop_index("ix_outbox_stripe_event_id", table_name="outbox")
    op.drop_index("ix_outbox_customer_id_id", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("cursors")
    op.drop_index("ix_api_calls_user_id_id", table_name="api_calls")
    op.drop_index("ix_api_calls_at", table_name="api_calls")
    op.drop_table("api_calls")
