"""What Billhook asks of a payment provider about subscriptions: their whole life."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from app.provider.objects import Page, Snapshot, Subscription
from app.provider.subscription_objects import InvoicePreview, ItemWish, SubscriptionSchedule

ProrationBehavior = Literal["create_prorations", "always_invoice", "none"]
PaymentBehavior = Literal["allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"]
CollectionMethod = Literal["charge_automatically", "send_invoice"]
CollectionPause = Literal["keep_as_draft", "mark_uncollectible", "void"]
Feedback = Literal[
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
]
"""Why a customer leaves, in Stripe's words."""
DiscountWish = Mapping[Literal["coupon", "discount", "promotion_code"], str]
"""One discount: of a coupon, of a promotion code's id, or one (`di_…`) that is there already."""


class SubscriptionProvider(Protocol):
    async def retrieve_subscription(self, id: str) -> Snapshot[Subscription]: ...

    async def list_subscriptions(
        self, *, customer: str | None = None, since: int | None = None, after: str | None = None
    ) -> Page[Subscription]:
        """A customer's, or everybody's, made since then, whatever their status."""
        ...

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
        """`days_until_due` goes with send_invoice.

        Raises ConflictError (`payment_method_missing`) where there is nothing to charge, and PaymentFailedError only
        with error_if_incomplete.
        """
        ...

    async def update_subscription(
        self,
        id: str,
        *,
        metadata: Mapping[str, str | None] | None = None,
        default_payment_method: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        """Set what is given; a metadata value of None takes its key away."""
        ...

    async def preview_change(
        self,
        id: str,
        *,
        items: Sequence[ItemWish],
        proration_behavior: ProrationBehavior,
        proration_date: int | None,
        discounts: Sequence[DiscountWish] | None = None,
    ) -> InvoicePreview | None:
        """The next invoice if `change_subscription` were called with the same: the one it makes, if it makes one.

        None where no invoice would ever follow: the subscription ends.
        """
        ...

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
        """`discounts` are all it is to have; None leaves them.

        With pending_if_incomplete a change whose invoice isn't paid at once waits for that (`pending_update`).
        """
        ...

    async def find_promotion_code(self, text: str) -> str:
        """The id of the active promotion code customers know as `text`. Raises InvalidRequestError."""
        ...

    async def retrieve_confirmation_secret(self, invoice: str) -> str | None:
        """What lets the customer pay an open invoice, 3D Secure included, on a page of one's own."""
        ...

    async def set_cancel_at_period_end(
        self,
        id: str,
        *,
        cancel: bool,
        reason: str | None = None,
        feedback: str | None = None,
        idempotency_key: str,
    ) -> Snapshot[Subscription]:
        """Schedule the end of a subscription for the end of its period, or take that back.

        `reason` is the customer's own words (`cancellation_details.comment`), `feedback` one of Stripe's.
        """
        ...

    async def cancel_subscription(
        self, id: str, *, reason: str | None = None, feedback: str | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        """End it at once. No proration, no refund."""
        ...

    async def preview_cancellation(self, id: str) -> InvoicePreview | None:
        """What would be given back for unused time if it ended now, as lines below zero; None for nothing."""
        ...

    async def retrieve_paying_intent(self, invoice: str) -> str | None:
        """The payment intent that paid an invoice; None when it was paid in another way or not at all."""
        ...

    async def pause_subscription(self, id: str, *, idempotency_key: str) -> Snapshot[Subscription]:
        """Stop service and billing (`status` paused); unused time is credited to the next invoice."""
        ...

    async def resume_subscription(self, id: str, *, idempotency_key: str) -> Snapshot[Subscription]:
        """End the status paused: a new period begins and is billed now."""
        ...

    async def set_pause_collection(
        self, id: str, *, behavior: CollectionPause | None, resumes_at: int | None = None, idempotency_key: str
    ) -> Snapshot[Subscription]:
        """Have invoices not collected for now, while service goes on; None ends that."""
        ...


class SubscriptionScheduleProvider(Protocol):
    async def retrieve_subscription_schedule(self, id: str) -> Snapshot[SubscriptionSchedule]: ...

    async def list_subscription_schedules(
        self, *, since: int | None = None, after: str | None = None
    ) -> Page[SubscriptionSchedule]: ...

    async def schedule_change(
        self, subscription: str, *, items: Sequence[ItemWish], idempotency_key: str
    ) -> Snapshot[SubscriptionSchedule]:
        """Have the subscription consist of `items` from the end of its period on; the schedule then lets it go."""
        ...

    async def release_subscription_schedule(self, id: str, *, idempotency_key: str) -> Snapshot[SubscriptionSchedule]:
        """Let the subscription go on by itself, as it is. Twice is no error."""
        ...
