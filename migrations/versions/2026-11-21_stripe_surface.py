"""Room for products, payments, credit notes, and what subscriptions and invoices now say of themselves."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("default_price", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_products_stripe_id")),
    )
    op.create_index("ix_products_created", "products", ["created"], unique=False)
    op.create_table(
        "charges",
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("amount_captured", sa.BigInteger(), nullable=False),
        sa.Column("amount_refunded", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("captured", sa.Boolean(), nullable=False),
        sa.Column("refunded", sa.Boolean(), nullable=False),
        sa.Column("payment_method", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("receipt_url", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("decline_code", sa.Text(), nullable=True),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_charges_customer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_charges_stripe_id")),
    )
    op.create_index("ix_charges_created_stripe_id", "charges", ["created", "stripe_id"], unique=False)
    op.create_index("ix_charges_customer_id_created", "charges", ["customer_id", "created"], unique=False)
    op.create_index(op.f("ix_charges_payment_intent"), "charges", ["payment_intent"], unique=False)
    op.create_table(
        "credit_notes",
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("invoice", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("subtotal", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("memo", sa.Text(), nullable=True),
        sa.Column("pdf", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_credit_notes_customer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_notes")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_credit_notes_stripe_id")),
    )
    op.create_index("ix_credit_notes_created", "credit_notes", ["created"], unique=False)
    op.create_index(op.f("ix_credit_notes_customer_id"), "credit_notes", ["customer_id"], unique=False)
    op.create_index(op.f("ix_credit_notes_invoice"), "credit_notes", ["invoice"], unique=False)
    op.create_table(
        "disputes",
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence_due_by", sa.BigInteger(), nullable=True),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_disputes_customer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disputes")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_disputes_stripe_id")),
    )
    op.create_index(op.f("ix_disputes_charge"), "disputes", ["charge"], unique=False)
    op.create_index("ix_disputes_created", "disputes", ["created"], unique=False)
    op.create_index(op.f("ix_disputes_customer_id"), "disputes", ["customer_id"], unique=False)
    op.create_index(op.f("ix_disputes_payment_intent"), "disputes", ["payment_intent"], unique=False)
    op.create_table(
        "payment_intents",
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("amount_capturable", sa.BigInteger(), nullable=False),
        sa.Column("amount_received", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("capture_method", sa.Text(), nullable=False),
        sa.Column("payment_method", sa.Text(), nullable=True),
        sa.Column("latest_charge", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("canceled_at", sa.BigInteger(), nullable=True),
        sa.Column("cancellation_reason", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("decline_code", sa.Text(), nullable=True),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_payment_intents_customer_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_intents")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_payment_intents_stripe_id")),
    )
    op.create_index("ix_payment_intents_created", "payment_intents", ["created"], unique=False)
    op.create_index(
        "ix_payment_intents_customer_id_created", "payment_intents", ["customer_id", "created"], unique=False
    )
    op.create_table(
        "refunds",
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("charge", sa.Text(), nullable=True),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_refunds_customer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_refunds_stripe_id")),
    )
    op.create_index(op.f("ix_refunds_charge"), "refunds", ["charge"], unique=False)
    op.create_index("ix_refunds_created", "refunds", ["created"], unique=False)
    op.create_index(op.f("ix_refunds_customer_id"), "refunds", ["customer_id"], unique=False)
    op.create_index(op.f("ix_refunds_payment_intent"), "refunds", ["payment_intent"], unique=False)
    op.create_table(
        "subscription_previews",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("change", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("amount_due", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("proration_date", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_by", sa.Text(), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_subscription_previews_customer_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_previews")),
    )
    op.create_index(
        op.f("ix_subscription_previews_customer_id"), "subscription_previews", ["customer_id"], unique=False
    )
    op.create_index(op.f("ix_subscription_previews_expires_at"), "subscription_previews", ["expires_at"], unique=False)
    op.create_table(
        "subscription_schedules",
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("end_behavior", sa.Text(), nullable=True),
        sa.Column("phases", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("stripe_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_subscription_schedules_customer_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_schedules")),
        sa.UniqueConstraint("stripe_id", name=op.f("uq_subscription_schedules_stripe_id")),
    )
    op.create_index("ix_subscription_schedules_created", "subscription_schedules", ["created"], unique=False)
    op.create_index(
        op.f("ix_subscription_schedules_customer_id"), "subscription_schedules", ["customer_id"], unique=False
    )
    op.add_column("customers", sa.Column("erased_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_customers_erased_at",
        "customers",
        ["erased_at"],
        unique=False,
        postgresql_where=sa.text("erased_at IS NOT NULL"),
    )
    op.create_index("ix_customers_email", "customers", [sa.literal_column("lower(email)")], unique=False)
    op.add_column("idempotency_keys", sa.Column("user_id", sa.Text(), nullable=True))
    op.add_column("invoices", sa.Column("discount", sa.BigInteger(), nullable=True))
    op.add_column("invoices", sa.Column("tax", sa.BigInteger(), nullable=True))
    op.add_column(
        "invoices", sa.Column("lines", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    _follow_prices()
    op.add_column("subscriptions", sa.Column("collection_method", sa.Text(), nullable=True))
    op.add_column("subscriptions", sa.Column("pause_resumes_at", sa.BigInteger(), nullable=True))
    op.add_column("subscriptions", sa.Column("paused_reason", sa.Text(), nullable=True))
    op.add_column("subscriptions", sa.Column("schedule", sa.Text(), nullable=True))
    op.add_column("subscriptions", sa.Column("pending_update_expires_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("subscriptions", "pending_update_expires_at")
    op.drop_column("subscriptions", "schedule")
    op.drop_column("subscriptions", "paused_reason")
    op.drop_column("subscriptions", "pause_resumes_at")
    op.drop_column("subscriptions", "collection_method")
    _unfollow_prices()
    op.drop_column("invoices", "lines")
    op.drop_column("invoices", "tax")
    op.drop_column("invoices", "discount")
    op.drop_column("idempotency_keys", "user_id")
    op.drop_index("ix_customers_email", table_name="customers")
    op.drop_index("ix_customers_erased_at", table_name="customers", postgresql_where=sa.text("erased_at IS NOT NULL"))
    op.drop_column("customers", "erased_at")
    op.drop_index(op.f("ix_subscription_schedules_customer_id"), table_name="subscription_schedules")
    op.drop_index("ix_subscription_schedules_created", table_name="subscription_schedules")
    op.drop_table("subscription_schedules")
    op.drop_index(op.f("ix_subscription_previews_expires_at"), table_name="subscription_previews")
    op.drop_index(op.f("ix_subscription_previews_customer_id"), table_name="subscription_previews")
    op.drop_table("subscription_previews")
    op.drop_index(op.f("ix_refunds_payment_intent"), table_name="refunds")
    op.drop_index(op.f("ix_refunds_customer_id"), table_name="refunds")
    op.drop_index("ix_refunds_created", table_name="refunds")
    op.drop_index(op.f("ix_refunds_charge"), table_name="refunds")
    op.drop_table("refunds")
    op.drop_index("ix_payment_intents_customer_id_created", table_name="payment_intents")
    op.drop_index("ix_payment_intents_created", table_name="payment_intents")
    op.drop_table("payment_intents")
    op.drop_index(op.f("ix_disputes_payment_intent"), table_name="disputes")
    op.drop_index(op.f("ix_disputes_customer_id"), table_name="disputes")
    op.drop_index("ix_disputes_created", table_name="disputes")
    op.drop_index(op.f("ix_disputes_charge"), table_name="disputes")
    op.drop_table("disputes")
    op.drop_index(op.f("ix_credit_notes_invoice"), table_name="credit_notes")
    op.drop_index(op.f("ix_credit_notes_customer_id"), table_name="credit_notes")
    op.drop_index("ix_credit_notes_created", table_name="credit_notes")
    op.drop_table("credit_notes")
    op.drop_index(op.f("ix_charges_payment_intent"), table_name="charges")
    op.drop_index("ix_charges_customer_id_created", table_name="charges")
    op.drop_index("ix_charges_created_stripe_id", table_name="charges")
    op.drop_table("charges")
    op.drop_index("ix_products_created", table_name="products")
    op.drop_table("products")


def _follow_prices() -> None:
    """Prices become rows that follow Stripe, as all others do."""
    op.add_column("prices", sa.Column("nickname", sa.Text(), nullable=True))
    op.add_column("prices", sa.Column("interval_count", sa.BigInteger(), server_default="1", nullable=False))
    op.add_column("prices", sa.Column("usage_type", sa.Text(), nullable=True))
    op.add_column("prices", sa.Column("meter", sa.Text(), nullable=True))
    op.add_column(
        "prices",
        sa.Column(
            "stripe_metadata",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.add_column("prices", sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False))
    # 0: any event is newer than what was stored without a time.
    op.add_column("prices", sa.Column("created", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("prices", sa.Column("synced_at", sa.BigInteger(), server_default="0", nullable=False))
    for column in ("interval_count", "stripe_metadata", "id", "created", "synced_at"):
        op.alter_column("prices", column, server_default=None)
    op.drop_constraint("pk_prices", "prices", type_="primary")
    op.create_primary_key("pk_prices", "prices", ["id"])
    op.add_column("prices", sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
    op.add_column("prices", sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.alter_column("prices", "plan", existing_type=sa.TEXT(), nullable=True)
    op.alter_column("prices", "unit_amount", existing_type=sa.BIGINT(), nullable=True)
    op.alter_column("prices", "interval", existing_type=sa.TEXT(), nullable=True)
    op.create_index("ix_prices_created", "prices", ["created"], unique=False)
    op.create_index(op.f("ix_prices_product"), "prices", ["product"], unique=False)
    op.create_index(op.f("ix_prices_lookup_key"), "prices", ["lookup_key"], unique=False)
    op.create_unique_constraint(op.f("uq_prices_stripe_id"), "prices", ["stripe_id"])


def _unfollow_prices() -> None:
    op.execute("DELETE FROM prices WHERE plan IS NULL OR unit_amount IS NULL OR interval IS NULL")
    op.drop_constraint(op.f("uq_prices_stripe_id"), "prices", type_="unique")
    op.drop_constraint("pk_prices", "prices", type_="primary")
    op.create_primary_key("pk_prices", "prices", ["stripe_id"])
    op.drop_index(op.f("ix_prices_lookup_key"), table_name="prices")
    op.drop_index(op.f("ix_prices_product"), table_name="prices")
    op.drop_index("ix_prices_created", table_name="prices")
    op.alter_column("prices", "interval", existing_type=sa.TEXT(), nullable=False)
    op.alter_column("prices", "unit_amount", existing_type=sa.BIGINT(), nullable=False)
    op.alter_column("prices", "plan", existing_type=sa.TEXT(), nullable=False)
    op.drop_column("prices", "deleted")
    op.drop_column("prices", "revision")
    op.drop_column("prices", "synced_at")
    op.drop_column("prices", "created")
    op.drop_column("prices", "id")
    op.drop_column("prices", "stripe_metadata")
    op.drop_column("prices", "meter")
    op.drop_column("prices", "usage_type")
    op.drop_column("prices", "interval_count")
    op.drop_column("prices", "nickname")
