"""Amounts as Stripe writes them in descriptions."""

from decimal import Decimal

#: https://docs.stripe.com/currencies#zero-decimal and #three-decimal
_ZERO_DECIMAL = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
THREE_DECIMAL = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}


def written(amount: int | Decimal, currency: str) -> str:
    """Write minor units: 9900 usd is $99.00, 500 jpy is ¥500, 1000 kwd is 1.000 KWD, a quarter of a cent $0.0025."""
    digits = 0 if currency in _ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2
    units = abs(Decimal(amount)).scaleb(-digits)
    exact = units.normalize().as_tuple().exponent
    number = f"{units:,.{max(digits, -exact if isinstance(exact, int) else 0)}f}"
    symbol = _SYMBOLS.get(currency)
    sign = "-" if amount < 0 else ""
    return f"{sign}{symbol}{number}" if symbol else f"{sign}{number} {currency.upper()}"
