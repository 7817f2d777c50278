"""Prepaid credits: accounts, grants, charges, purchases, automatic top-ups, and the ledger of all transfers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credit_accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("oauth_provider", sa.Text(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("free", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("paid", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("owed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("used", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("hand_grant", sa.Uuid(), nullable=True),
        sa.Column("hand_book", sa.Text(), nullable=True),
        sa.Column("hand", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_next", sa.BigInteger(), nullable=True),
        sa.Column("notice_at", sa.BigInteger(), server_default=sa.text("-1"), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "hand >= 0 AND hand <= CASE hand_book WHEN 'free' THEN free ELSE paid END",
            name=op.f("ck_credit_accounts_hand"),
        ),
        sa.CheckConstraint("status IN ('active', 'suspended', 'closed')", name=op.f("ck_credit_accounts_status")),
        sa.CheckConstraint(
            "(hand_grant IS NULL) = (hand_book IS NULL) AND (hand = 0 OR hand_grant IS NOT NULL)",
            name=op.f("ck_credit_accounts_in_hand"),
        ),
        sa.CheckConstraint(
            "free >= 0 AND paid >= 0 AND held >= 0 AND owed >= 0 AND used >= 0",
            name=op.f("ck_credit_accounts_balances"),
        ),
        sa.CheckConstraint("owed = 0 OR free + paid = 0", name=op.f("ck_credit_accounts_owed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_accounts")),
        sa.UniqueConstraint("user_id", name=op.f("uq_credit_accounts_user_id")),
    )
    op.create_table(
        "credit_charges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("resolved_at", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('held', 'captured', 'released', 'expired')", name=op.f("ck_credit_charges_status")
        ),
        sa.CheckConstraint(
            "quantity > 0 AND captured >= 0 AND captured <= quantity", name=op.f("ck_credit_charges_quantity")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_charges")),
        sa.UniqueConstraint("key", name=op.f("uq_credit_charges_key")),
        comment="account_id has no foreign key: rows come from the statement that changes the account itself",
    )
    op.create_index(
        "ix_credit_charges_held",
        "credit_charges",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'held'"),
    )
    op.create_table(
        "credit_transfers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=True),
        sa.Column("charge_id", sa.Uuid(), nullable=True),
        sa.Column("purchase_id", sa.Uuid(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "source IN ('free', 'paid', 'held', 'owed', 'issued', 'consumed', 'expired', 'revoked')"
            " AND destination IN ('free', 'paid', 'held', 'owed', 'issued', 'consumed', 'expired', 'revoked')"
            " AND (source IN ('free', 'paid', 'held', 'owed') OR destination IN ('free', 'paid', 'held', 'owed'))",
            name=op.f("ck_credit_transfers_books"),
        ),
        sa.CheckConstraint("amount > 0 AND source <> destination", name=op.f("ck_credit_transfers_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_transfers")),
    )
    op.create_index("ix_credit_transfers_account_id", "credit_transfers", ["account_id", "id"], unique=False)
    op.create_index(
        "ix_credit_transfers_charge_id",
        "credit_transfers",
        ["charge_id"],
        unique=False,
        postgresql_where=sa.text("kind = 'hold'"),
    )
    op.create_index(
        "ix_credit_transfers_purchase_id",
        "credit_transfers",
        ["purchase_id"],
        unique=False,
        postgresql_where=sa.text("purchase_id IS NOT NULL"),
    )
    op.create_index(
        "uq_credit_transfers_key", "credit_transfers", ["key"], unique=True, postgresql_where=sa.text("key IS NOT NULL")
    )
    op.create_table(
        "credit_purchases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("expires_days", sa.BigInteger(), nullable=True),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("checkout_session", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("amount_refunded", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount_disputed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("clawed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("granted_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "mode IN ('payment_intent', 'checkout', 'auto_topup')", name=op.f("ck_credit_purchases_mode")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'succeeded', 'failed', 'canceled', 'mismatched')",
            name=op.f("ck_credit_purchases_status"),
        ),
        sa.CheckConstraint(
            "uses > 0 AND amount > 0 AND clawed >= 0 AND clawed <= uses", name=op.f("ck_credit_purchases_uses")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_purchases_account_id_credit_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_purchases")),
        sa.UniqueConstraint("checkout_session", name=op.f("uq_credit_purchases_checkout_session")),
        sa.UniqueConstraint("payment_intent", name=op.f("uq_credit_purchases_payment_intent")),
    )
    op.create_index("ix_credit_purchases_account_id", "credit_purchases", ["account_id", "created", "id"], unique=False)
    op.create_table(
        "credit_grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("book", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("purchase_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("book IN ('free', 'paid')", name=op.f("ck_credit_grants_book")),
        sa.CheckConstraint(
            "amount > 0 AND remaining >= 0 AND remaining <= amount", name=op.f("ck_credit_grants_remaining")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_grants_account_id_credit_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["purchase_id"], ["credit_purchases.id"], name=op.f("fk_credit_grants_purchase_id_credit_purchases")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_grants")),
        sa.UniqueConstraint("purchase_id", name=op.f("uq_credit_grants_purchase_id")),
    )
    op.create_index("ix_credit_grants_account_id", "credit_grants", ["account_id", "created"], unique=False)
    op.create_index(
        "ix_credit_grants_expiring",
        "credit_grants",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("open AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_credit_grants_open", "credit_grants", ["account_id"], unique=False, postgresql_where=sa.text("open")
    )
    op.create_table(
        "credit_topups",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("threshold", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("payment_method", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("purchase_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("threshold >= 0 AND failures >= 0", name=op.f("ck_credit_topups_threshold")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_topups_account_id_credit_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["purchase_id"], ["credit_purchases.id"], name=op.f("fk_credit_topups_purchase_id_credit_purchases")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_credit_topups")),
    )
    op.create_index(
        "ix_credit_topups_declined",
        "credit_topups",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("failures > 0"),
    )
    op.create_index(
        "ix_credit_topups_due_at",
        "credit_topups",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    # A charge changes its account's row in place: there must be room for the new version beside the old.
    op.execute("ALTER TABLE credit_accounts SET (fillfactor = 70)")
    op.execute(
        """
        CREATE FUNCTION credit_transfers_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'credit_transfers only grows: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER credit_transfers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_transfers "
        "FOR EACH STATEMENT EXECUTE FUNCTION credit_transfers_refuse()"
    )


def downgrade() -> None:
    op.drop_index("ix_credit_topups_declined", table_name="credit_topups", postgresql_where=sa.text("failures > 0"))
    op.drop_index("ix_credit_topups_due_at", table_name="credit_topups", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_table("credit_topups")
    op.drop_index("ix_credit_grants_open", table_name="credit_grants", postgresql_where=sa.text("open"))
    op.drop_index(
        "ix_credit_grants_expiring",
        table_name="credit_grants",
        postgresql_where=sa.text("open AND expires_at IS NOT NULL"),
    )
    op.drop_index("ix_credit_grants_account_id", table_name="credit_grants")
    op.drop_table("credit_grants")
    op.drop_index("ix_credit_purchases_account_id", table_name="credit_purchases")
    op.drop_table("credit_purchases")
    op.drop_index("uq_credit_transfers_key", table_name="credit_transfers", postgresql_where=sa.text("key IS NOT NULL"))
    op.drop_index(
        "ix_credit_transfers_purchase_id",
        table_name="credit_transfers",
        postgresql_where=sa.text("purchase_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_credit_transfers_charge_id", table_name="credit_transfers", postgresql_where=sa.text("kind = 'hold'")
    )
    op.drop_index("ix_credit_transfers_account_id", table_name="credit_transfers")
    op.drop_table("credit_transfers")
    op.drop_index("ix_credit_charges_held", table_name="credit_charges", postgresql_where=sa.text("status = 'held'"))
    op.drop_table("credit_charges")
    op.drop_table("credit_accounts")
    op.execute("DROP FUNCTION credit_transfers_refuse")
