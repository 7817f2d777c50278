"""A customer's balance: every change of it is a transaction, negative where the customer is credited."""

from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def move(sandbox: Sandbox, customer: Row, amount: int, *, type: str, currency: str, **refs: str | None) -> Row:
    """Change the balance and note why; ``refs`` are invoice, credit_note and description. The caller emits."""
    customer["balance"] += amount
    return sandbox.insert(
        {
            "id": sandbox.new.mint("cbtxn_"),
            "object": "customer_balance_transaction",
            "amount": amount,
            "checkout_session": None,
            "created": sandbox.now(),
            "credit_note": None,
            "currency": currency,
            "customer": customer["id"],
            "customer_account": None,
            "description": None,
            "ending_balance": customer["balance"],
            "invoice": None,
            "livemode": False,
            "metadata": {},
            "type": type,
            **refs,
        }
    )
