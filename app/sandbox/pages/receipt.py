"""A charge's receipt, which its ``receipt_url`` opens."""

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox.errors import missing
from app.sandbox.money import written
from app.sandbox.pages import wording
from app.sandbox.pages.layout import page
from app.sandbox.periods import day
from app.sandbox.sandbox import Sandbox


async def show(sandbox: Sandbox, request: Request) -> Response:
    charge = sandbox.get("charge", request.path_params["charge"])
    if not charge["paid"]:
        raise missing("charge", charge["id"])
    refunded = charge["amount_refunded"]
    return page(
        "receipt.html",
        amount=written(charge["amount"], charge["currency"]),
        facts=[
            ("Paid on", day(charge["created"])),
            ("Paid with", wording.card(charge["payment_method_details"])),
            ("Description", charge["description"] or "none"),
            *([("Refunded", written(refunded, charge["currency"]))] if refunded else []),
            ("Reference", charge["id"]),
        ],
    )
