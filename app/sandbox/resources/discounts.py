"""Taking discounts off: DELETE …/discount of a subscription or a customer."""

from app.sandbox import discounts
from app.sandbox.errors import ApiError
from app.sandbox.route import route
from app.sandbox.sandbox import Sandbox
from app.sandbox.store import Row


def delete_of_subscription(sandbox: Sandbox, _params: Row, subscription: str) -> Row:
    row = sandbox.get("subscription", subscription)
    if not row["discounts"]:
        raise ApiError(f"No active discount for subscription: {subscription}", code="resource_missing", status=404)
    with sandbox.updating("customer.subscription.updated", row):
        dropped = [discounts.drop(sandbox, row, id) for id in row["discounts"]]
    return {**dropped[-1], "deleted": True}


def delete_of_customer(sandbox: Sandbox, _params: Row, customer: str) -> Row:
    """Since API version basil no request puts a discount on a customer as a whole, so none is ever found."""
    sandbox.get("customer", customer)
    raise ApiError(f"No active discount for customer: {customer}", code="resource_missing", status=404)


ROUTES = (
    route(
        "DELETE /v1/subscriptions/{subscription}/discount", delete_of_subscription, "SubscriptionDeleteDiscountParams"
    ),
    route("DELETE /v1/customers/{customer}/discount", delete_of_customer, "CustomerDeleteDiscountParams"),
)
