"""Tax rates: a name and a percentage, contained in a price or on top of it."""

from app.sandbox import lists
from app.sandbox.errors import ApiError
from app.sandbox.metadata import merge
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

_ALL = 100  # percent
_DESCRIBED = ("active", "country", "description", "display_name", "jurisdiction", "state", "tax_type")


def create(sandbox: Sandbox, params: Row) -> Row:
    percentage = float(params["percentage"])
    if not 0 <= percentage <= _ALL:
        raise ApiError("Invalid percentage: must be between 0 and 100.", param="percentage")
    row: Row = {
        **dict.fromkeys(_DESCRIBED),
        "id": sandbox.new.mint("txr_"),
        "object": "tax_rate",
        "active": True,
        "created": sandbox.now(),
        "effective_percentage": percentage,
        "flat_amount": None,
        "inclusive": params["inclusive"],
        "jurisdiction_level": None,
        "livemode": False,
        "metadata": {},
        "percentage": percentage,
        "rate_type": "percentage",
    }
    _describe(row, params)
    sandbox.insert(row)
    sandbox.emit("tax_rate.created", row)
    return row


def retrieve(sandbox: Sandbox, _params: Row, tax_rate: str) -> Row:
    return sandbox.get("tax_rate", tax_rate, param="tax_rate")


def update(sandbox: Sandbox, params: Row, tax_rate: str) -> Row:
    row = sandbox.get("tax_rate", tax_rate, param="tax_rate")
    with sandbox.updating("tax_rate.updated", row):
        _describe(row, params)
    return row


def list_(sandbox: Sandbox, params: Row) -> Row:
    return lists.page(
        sandbox,
        "tax_rate",
        params,
        "/v1/tax_rates",
        lambda row: (
            lists.matches(row, params, "active", "inclusive") and lists.within(row["created"], params.get("created"))
        ),
    )


def _describe(row: Row, params: Row) -> None:
    row.update({name: params[name] for name in _DESCRIBED if name in params})
    merge(row, params)


ROUTES = (
    route("POST /v1/tax_rates", create, "TaxRateCreateParams", f"{' '.join(_DESCRIBED)} inclusive percentage"),
    route("GET /v1/tax_rates", list_, "TaxRateListParams", "active created inclusive"),
    route("GET /v1/tax_rates/{tax_rate}", retrieve, "TaxRateRetrieveParams"),
    route("POST /v1/tax_rates/{tax_rate}", update, "TaxRateUpdateParams", " ".join(_DESCRIBED)),
)
