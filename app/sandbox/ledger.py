"""The account's money: balance transactions with Stripe's fees, and the balance they add up to.

Every currency settles in itself, as with a bank account per currency, so no amount is ever converted.
"""

from app.sandbox import later
from app.sandbox.periods import DAY
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

HOME = "US"
SETTLES_AFTER = 7  # calendar days until a payment's money is available
DISPUTE_FEE = 1500  # minor units; a won dispute does not give it back

_PER_MILLE = 29
_PER_MILLE_ABROAD = 37  # recorded: 193 of 4400 for a card from another country
_FIXED = 30  # minor units


def charge_fee(amount: int, country: str | None) -> int:
    """Say what Stripe keeps of a card payment, in minor units, rounded to the nearest."""
    rate = _PER_MILLE if country in {HOME, None} else _PER_MILLE_ABROAD
    return (2 * amount * rate + 1000) // 2000 + _FIXED


def settlement_day(sandbox: Sandbox) -> int:
    """Midnight UTC, seven calendar days on."""
    return (sandbox.now() // DAY + SETTLES_AFTER) * DAY


def book(
    sandbox: Sandbox,
    id: str,
    *,
    amount: int,
    currency: str,
    source: str,
    kind: tuple[str, str],
    description: str | None,
    available_on: int,
    fee: int = 0,
    fee_description: str = "Stripe processing fees",
) -> Row:
    """Enter one movement; ``kind`` is its type and its reporting category."""
    type, category = kind
    detail = {
        "amount": fee,
        "application": None,
        "currency": currency,
        "description": fee_description,
        "type": "stripe_fee",
    }
    available = available_on <= sandbox.now()
    if not available:
        later.schedule(sandbox, "make_available", id, after=available_on - sandbox.now())
    return sandbox.insert(
        {
            "id": id,
            "object": "balance_transaction",
            "amount": amount,
            "available_on": available_on,
            "balance_type": "payments",
            "created": sandbox.now(),
            "currency": currency,
            "description": description,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [detail] if fee else [],
            "net": amount - fee,
            "reporting_category": category,
            "source": source,
            "status": "available" if available else "pending",
            "type": type,
        }
    )


def make_available(sandbox: Sandbox, transaction: str) -> None:
    sandbox.get("balance_transaction", transaction)["status"] = "available"


def balance(sandbox: Sandbox) -> Row:
    """Add the ledger up; an account without movements shows zero in its own currency."""
    entries = sandbox.rows("balance_transaction")
    currencies = sorted({entry["currency"] for entry in entries} or {"usd"})

    def sums(status: str) -> list[Row]:
        return [_sum(entries, status, currency) for currency in currencies]

    nothing = [{"amount": 0, "currency": currency} for currency in currencies]
    return {
        "object": "balance",
        "available": sums("available"),
        "livemode": False,
        "pending": sums("pending"),
        "refund_and_dispute_prefunding": {"available": nothing, "pending": nothing},
    }


def _sum(entries: list[Row], status: str, currency: str) -> Row:
    amount = sum(entry["net"] for entry in entries if entry["status"] == status and entry["currency"] == currency)
    return {"amount": amount, "currency": currency, "source_types": {"card": amount}}
