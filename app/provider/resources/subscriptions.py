"""Subscriptions at Stripe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.errors import ConflictError, NotFoundError
from app.provider.mapping.reading import maybe, ref, within
from app.provider.mapping.subscription_changes import map_confirmation_secret, map_invoice_preview
from app.provider.mapping.subscriptions import map_subscription
from app.provider.objects import Page, Snapshot, Subscription
from app.provider.resources.promotion_codes import StripePromotionCodes
from app.provider.resources.resource import PAGE_SIZE, Kind, object_path, readable
from app.provider.stripe_client import Blame
from app.provider.subscription_objects import InvoicePreview, ItemWish
from app.provider.subscription_protocol import (
    CollectionMethod,
    CollectionPause,
    DiscountWish,
    PaymentBehavior,
    ProrationBehavior,
)

if TYPE_CHECKING:
    from stripe.params import (
        InvoiceCreatePreviewParams,
        InvoicePaymentListParams,
        InvoiceRetrieveParams,
        SubscriptionCancelParams,
        SubscriptionCreateParams,
        SubscriptionListParams,
        SubscriptionPauseParams,
        SubscriptionUpdateParams,
        SubscriptionUpdateParamsCancellationDetails,
        SubscriptionUpdateParamsDiscount,
        SubscriptionUpdateParamsItem,
    )


SUBSCRIPTION = Kind("/v1/subscriptions", map_subscription)

_MOST = 20  # items or discounts of one subscription


def item_blame(at: str) -> dict[str, str]:
    """What Stripe calls the items' parameters at `at`, and what our callers do."""
    names = {"price": "price_id", "quantity": "quantity"}
    return {f"{at}[{n}][{name}]": ours for n in range(_MOST) for name, ours in names.items()}


SUBSCRIPTION_BLAME = Blame(
    params={
        **{name: name for name in ("customer", "default_payment_method", "days_until_due", "proration_date")},
        "cancellation_details[comment]": "reason",
        "pause_collection[resumes_at]": "resumes_at",
        "trial_period_days": "trial_days",
        **item_blame("items"),
        **item_blame("subscription_details[items]"),
        **{f"discounts[{n}][{name}]": name for n in range(_MOST) for name in ("coupon", "promotion_code")},
    },
    conflict="The present state of the subscription does not allow this.",
)


class StripeSubscriptions(StripePromotionCodes):
    async def retrieve_subscription(self, id: str) -> Snapshot[Subscription]:
        return await self._retrieve(SUBSCRIPTION, id)

    async def list_subscriptions(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Subscription]:
        params: SubscriptionListParams = {"limit": PAGE_SIZE, "status": "all"}  # else the canceled ones are left out
        if customer is not None:
            params["customer"] = customer
        if since is not None:
            params["created"] = {"gte": since}
        return await self._page("/v1/subscriptions", map_subscription, params, after)

    async def create_subscription(
        self,
        *,
        customer: str,
        items: Sequence[ItemWish],
        trial_period_days: int | None = None,
        discounts: Sequence[DiscountWish] = (),
        metadata: Mapping[str, str],
        collection_method: CollectionMethod = "charge_automatically",
        days_until_due: int | None = None,
        payment_behavior: PaymentBehavior = "allow_incomplete",
        default_payment_method: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        params: SubscriptionCreateParams = {
            "customer": customer,
            "items": [
                {"price": wish.price} if wish.quantity is None else {"price": wish.price, "quantity": wish.quantity}
                for wish in items
            ],
            "metadata": dict(metadata),
            "collection_method": collection_method,
            "payment_behavior": payment_behavior,
        }
        if trial_period_days:
            params["trial_period_days"] = trial_period_days
        if discounts:
            params["discounts"] = [_discount(wish) for wish in discounts]
        if days_until_due is not None:
            params["days_until_due"] = days_until_due
        if default_payment_method is not None:
            params["default_payment_method"] = default_payment_method
        try:
            return await self._post(SUBSCRIPTION, params, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME)
        except NotFoundError as error:
            if error.param is not None:
                raise
            # What is missing is none of the parameters: Stripe calls it so when there is nothing to charge.
            raise ConflictError("The customer has no payment method.", code="payment_method_missing") from error

    async def update_subscription(
        self,
        id: str,
        *,
        metadata: Mapping[str, str | None] | None = None,
        default_payment_method: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {}
        if metadata is not None:
            params["metadata"] = {key: value or "" for key, value in metadata.items()}  # "" takes a key away
        if default_payment_method is not None:
            params["default_payment_method"] = default_payment_method
        return await self._change(id, params, idempotency_key)

    async def preview_change(
        self,
        id: str,
        *,
        items: Sequence[ItemWish],
        proration_behavior: ProrationBehavior,
        proration_date: int | None,
        discounts: Sequence[DiscountWish] | None = None,
    ) -> InvoicePreview | None:
        params: InvoiceCreatePreviewParams = {
            "subscription": id,
            "subscription_details": {"items": _items(items), "proration_behavior": proration_behavior},
        }
        if proration_date is not None:
            params["subscription_details"]["proration_date"] = proration_date
        if discounts is not None:
            params["discounts"] = [_discount(wish) for wish in discounts]
        return await self._preview(params)

    async def change_subscription(
        self,
        id: str,
        *,
        items: Sequence[ItemWish],
        proration_behavior: ProrationBehavior,
        proration_date: int | None,
        payment_behavior: PaymentBehavior | None = None,
        discounts: Sequence[DiscountWish] | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"items": _items(items), "proration_behavior": proration_behavior}
        if proration_date is not None:
            params["proration_date"] = proration_date
        if payment_behavior is not None:
            params["payment_behavior"] = payment_behavior
        if discounts is not None:
            params["discounts"] = [_discount(wish) for wish in discounts]
        return await self._change(id, params, idempotency_key)

    async def retrieve_confirmation_secret(self, invoice: str) -> str | None:
        params: InvoiceRetrieveParams = {"expand": ["confirmation_secret"]}
        answer = await self._client.send("get", object_path("/v1/invoices", invoice), params)
        return readable(map_confirmation_secret, answer.data, request_id=answer.request_id)

    async def set_cancel_at_period_end(
        self,
        id: str,
        *,
        cancel: bool,
        reason: str | None = None,
        feedback: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"cancel_at_period_end": cancel}
        if details := _cancellation_details(reason, feedback):
            params["cancellation_details"] = details
        snapshot = await self._change(id, params, idempotency_key)
        if not cancel and snapshot.object.cancel_at is not None:
            # In flexible billing mode the portal cancels by date (docs.stripe.com/billing/subscriptions/billing-mode/
            # compare), and Stripe takes only one of the two parameters in a request.
            snapshot = await self._change(id, {"cancel_at": ""}, f"{idempotency_key}-at")
        return snapshot

    async def cancel_subscription(
        self, id: str, *, reason: str | None = None, feedback: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionCancelParams = {}
        if details := _cancellation_details(reason, feedback):
            params["cancellation_details"] = details
        path = object_path(SUBSCRIPTION.path, id)
        try:
            answer = await self._client.send(
                "delete", path, params, idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
            )
        except (NotFoundError, ConflictError):
            # DELETE knows no idempotency key: Stripe refuses the second one, and the first may have been ours.
            snapshot = await self._retrieve(SUBSCRIPTION, id)
            if snapshot.object.status != "canceled":
                raise
            return snapshot
        return await self._snapshot(SUBSCRIPTION, answer)

    async def preview_cancellation(self, id: str) -> InvoicePreview | None:
        params: InvoiceCreatePreviewParams = {
            "subscription": id,
            "subscription_details": {"cancel_now": True, "proration_behavior": "always_invoice"},
        }
        return await self._preview(params)

    async def retrieve_paying_intent(self, invoice: str) -> str | None:
        params: InvoicePaymentListParams = {"invoice": invoice, "status": "paid", "limit": 1}
        found = await self._list(_PAID_INTENT, params)
        return found[0] if found else None

    async def pause_subscription(self, id: str, *, idempotency_key: str) -> Snapshot[Subscription]:
        params: SubscriptionPauseParams = {"type": "subscription"}
        return await self._post(
            SUBSCRIPTION,
            params,
            id=id,
            action="/pause",
            idempotency_key=idempotency_key,
            blame=SUBSCRIPTION_BLAME,
        )

    async def resume_subscription(self, id: str, *, idempotency_key: str) -> Snapshot[Subscription]:
        return await self._post(
            SUBSCRIPTION, id=id, action="/resume", idempotency_key=idempotency_key, blame=SUBSCRIPTION_BLAME
        )

    async def set_pause_collection(
        self, id: str, *, behavior: CollectionPause | None, resumes_at: int | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        params: SubscriptionUpdateParams = {"pause_collection": "" if behavior is None else {"behavior": behavior}}
        if behavior is not None and resumes_at is not None:
            params["pause_collection"] = {"behavior": behavior, "resumes_at": resumes_at}
        return await self._change(id, params, idempotency_key)

    async def _change(self, id: str, params: "SubscriptionUpdateParams", key: str) -> Snapshot[Subscription]:
        return await self._post(SUBSCRIPTION, params, id=id, idempotency_key=key, blame=SUBSCRIPTION_BLAME)

    async def _preview(self, params: "InvoiceCreatePreviewParams") -> InvoicePreview | None:
        try:
            answer = await self._client.send("post", "/v1/invoices/create_preview", params, blame=SUBSCRIPTION_BLAME)
        except NotFoundError as error:
            if error.provider_code == "invoice_upcoming_none":
                return None
            raise
        return readable(map_invoice_preview, answer.data, request_id=answer.request_id)


_PAID_INTENT = Kind("/v1/invoice_payments", lambda payment: maybe(ref, within(payment, "payment", "payment_intent")))


def _items(wishes: Sequence[ItemWish]) -> "list[SubscriptionUpdateParamsItem]":
    """The same for creating, changing and previewing."""
    items: list[SubscriptionUpdateParamsItem] = []
    for wish in wishes:
        item: SubscriptionUpdateParamsItem = {"price": wish.price}
        if wish.id is not None:
            item["id"] = wish.id
        if wish.quantity is not None:
            item["quantity"] = wish.quantity
        items.append(item)
    return items


def _discount(wish: DiscountWish) -> "SubscriptionUpdateParamsDiscount":
    discount: SubscriptionUpdateParamsDiscount = {}
    for name in ("coupon", "discount", "promotion_code"):
        if name in wish:
            discount[name] = wish[name]
    return discount


def _cancellation_details(reason: str | None, feedback: str | None) -> "SubscriptionUpdateParamsCancellationDetails":
    details: SubscriptionUpdateParamsCancellationDetails = {}
    if reason:
        details["comment"] = reason
    if feedback:
        details["feedback"] = feedback
    return details
