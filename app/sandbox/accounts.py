"""Connected accounts: how one comes to be, what it still has to tell Stripe, and how the platform loses it."""

from typing import Any

from app.sandbox.errors import ApiError, unsupported
from app.sandbox.events import previous_attributes
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row

#: Where accounts may be, and what they are paid in.
CURRENCIES = {
    "AU": "aud", "BR": "brl", "CA": "cad", "CH": "chf", "CZ": "czk", "DK": "dkk", "GB": "gbp", "HK": "hkd",
    "JP": "jpy", "MX": "mxn", "NO": "nok", "NZ": "nzd", "PL": "pln", "SE": "sek", "SG": "sgd", "US": "usd",
    **dict.fromkeys(("AT", "BE", "DE", "ES", "FI", "FR", "GR", "IE", "IT", "LU", "NL", "PT"), "eur"),
}  # fmt: skip

_PROFILE = (
    "annual_revenue",
    "estimated_worker_count",
    "mcc",
    "minority_owned_business_designation",
    "name",
    "product_description",
    "support_address",
    "support_email",
    "support_phone",
    "support_url",
    "url",
)
_OWN_SINCE = 1_577_836_800  # 2020-01-01: the platform's own account is older than all it ever does
#: What a person enters in the onboarding form; nothing may be charged before.
_ONBOARDING = ["business_profile.url", "business_type", "external_account", "tos_acceptance.date", "tos_acceptance.ip"]
#: https://docs.stripe.com/connect/migrate-to-controller-properties: what each type stands for.
_CONTROLLERS: dict[str, Row] = {
    "standard": {"fees": "account", "losses": "stripe", "requirements": "stripe", "dashboard": "full"},
    "express": {
        "fees": "application_express",
        "losses": "application",
        "requirements": "stripe",
        "dashboard": "express",
    },
    "custom": {
        "fees": "application_custom",
        "losses": "application",
        "requirements": "application",
        "dashboard": "none",
    },
}


def controller(type: str | None, params: Row) -> Row:
    """Say who controls what: as the type has it, or as asked."""
    wanted = _CONTROLLERS[type or "standard"]
    given = {name: params.get(name) or {} for name in ("fees", "losses", "stripe_dashboard")}
    return {
        "fees": {"payer": given["fees"].get("payer", wanted["fees"])},
        "is_controller": True,
        "losses": {"payments": given["losses"].get("payments", wanted["losses"])},
        "requirement_collection": params.get("requirement_collection", wanted["requirements"]),
        "stripe_dashboard": {"type": given["stripe_dashboard"].get("type", wanted["dashboard"])},
        "type": "application",
    }


def create(platform: Sandbox, *, type: str, controller: Row, country: str = "US", email: str | None = None) -> Row:
    """Add an account that has told Stripe nothing yet. The platform may work in it at once."""
    if country not in CURRENCIES:
        raise unsupported(f"accounts in the country '{country}'", param="country")
    row = blank(
        platform.new.mint("acct_"),
        created=platform.now(),
        country=country,
        controller=controller,
        email=email,
        type=type,
        _connected=True,
    )
    return platform.insert(row)


def own(platform: Sandbox) -> Row:
    """Give the platform's own account, which has been open for business since long."""
    row = blank(platform.own_account, created=_OWN_SINCE, country="US", controller={"type": "account"})
    row["business_profile"] |= {"name": "Billhook sandbox", "url": "https://example.com"}
    row["capabilities"] = {"card_payments": "active", "transfers": "active"}
    row["charges_enabled"] = row["details_submitted"] = row["payouts_enabled"] = True
    row["requirements"] = requirements([])
    return row


def blank(id: str, *, created: int, country: str, controller: Row, email: str | None = None, **fields: Any) -> Row:
    """Build an account that has told nothing but where it is."""
    return {
        "id": id,
        "object": "account",
        "business_profile": dict.fromkeys(_PROFILE),
        "business_type": None,
        "capabilities": {},
        "charges_enabled": False,
        "controller": controller,
        "country": country,
        "created": created,
        "default_currency": CURRENCIES[country],
        "details_submitted": False,
        "email": email,
        "external_accounts": {
            "object": "list",
            "data": [],
            "has_more": False,
            "total_count": 0,
            "url": f"/v1/accounts/{id}/external_accounts",
        },
        "future_requirements": requirements([]),
        "groups": {"payments_pricing": None},
        "metadata": {},
        "payouts_enabled": False,
        "requirements": requirements(_ONBOARDING),
        "settings": _settings(),
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
        "type": "standard",
        **fields,
    }


def requirements(due: list[str]) -> Row:
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": list(due),
        "disabled_reason": "requirements.past_due" if due else None,
        "errors": [],
        "eventually_due": list(due),
        "past_due": list(due),
        "pending_verification": [],
    }


def request_capability(platform: Sandbox, account: Row, name: str, *, requested: bool = True) -> Row:
    """Ask for a capability, or give it up. It becomes active once nothing is due any more."""
    world = platform.world(account["id"])
    row = world.find("capability", name)
    if row is None:
        row = world.insert(
            {
                "id": name,
                "object": "capability",
                "account": account["id"],
                "future_requirements": requirements([]),
                "requested": False,
                "requested_at": None,
                "requirements": requirements([]),
                "status": "unrequested",
            }
        )
    before = world.shown(row)
    if row["requested"] != requested:
        row["requested"], row["requested_at"] = requested, world.now() if requested else None
    due = account["requirements"]["currently_due"]
    row["status"] = ("inactive" if due else "active") if requested else "unrequested"
    row["requirements"] = requirements(due if requested else []) | {
        "disabled_reason": "requirements.fields_needed" if due and requested else None
    }
    shown = account["capabilities"]
    account["capabilities"] = {other: shown[other] for other in shown if other != name}
    if requested:
        account["capabilities"][name] = row["status"]
    if previous := previous_attributes(before, world.shown(row)):
        world.emit("capability.updated", row, previous)
    return row


def finish_onboarding(platform: Sandbox, account: Row) -> None:
    """Have the person tell Stripe all it asks for: the account may charge and be paid out."""
    world = platform.world(account["id"])
    with world.updating("account.updated", account):
        account["details_submitted"] = account["charges_enabled"] = account["payouts_enabled"] = True
        account["requirements"] = requirements([])
        account["business_type"] = account["business_type"] or "individual"
        account["business_profile"]["url"] = account["business_profile"]["url"] or "https://example.com"
        account["tos_acceptance"]["date"] = world.now()
        for name in account["capabilities"] or ("card_payments", "transfers"):
            request_capability(platform, account, name)


def deauthorize(platform: Sandbox, account: Row) -> None:
    """Take the platform's access away; what it had been told about the account ends with this event."""
    platform.world(account["id"]).emit("account.application.deauthorized", application(account))
    account["_connected"] = False


def application(account: Row) -> Row:
    return {"id": account["_client_id"], "object": "application", "name": "Billhook sandbox"}


def check_controlled(account: Row) -> None:
    """Refuse to change an account that belongs to its owner, and only let the platform in by OAuth."""
    if account["controller"]["type"] == "account":
        raise ApiError(
            f"This application does not have the required permissions for this endpoint on account '{account['id']}'.",
            status=403,
        )


def _settings() -> Row:
    return {
        "bacs_debit_payments": {"display_name": None, "service_user_number": None},
        "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
        "card_issuing": {"tos_acceptance": {"date": None, "ip": None, "user_agent": None}},
        "card_payments": {
            "decline_on": {"avs_failure": False, "cvc_failure": False},
            "statement_descriptor_prefix": None,
            "statement_descriptor_prefix_kana": None,
            "statement_descriptor_prefix_kanji": None,
        },
        "dashboard": {"display_name": None, "timezone": "Etc/UTC"},
        "invoices": {"default_account_tax_ids": None, "hosted_payment_method_save": "offer"},
        "payments": {
            "statement_descriptor": None,
            "statement_descriptor_kana": None,
            "statement_descriptor_kanji": None,
            "statement_descriptor_prefix_kana": None,
            "statement_descriptor_prefix_kanji": None,
        },
        "payouts": {
            "debit_negative_balances": True,
            "schedule": {"delay_days": 2, "interval": "daily"},
            "statement_descriptor": None,
        },
        "sepa_debit_payments": {"creditor_id": None},
    }
