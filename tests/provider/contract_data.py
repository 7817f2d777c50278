"""What Stripe shows in the cases of the contract, and calls that several of them make."""

from typing import Any

from provider.stripe_data import LATEST, shown

CUSTOMER = shown(LATEST, "customer.updated")
SUBSCRIPTION = shown(LATEST, "customer.subscription.updated")
SESSION = shown(LATEST, "checkout.session.completed")
INVOICE = shown(LATEST, "invoice.paid")
CARD = shown(LATEST, "payment_method.attached")
PRICE = SUBSCRIPTION["items"]["data"][0]["price"]
PRODUCT = {
    "id": "prod_Qabc",
    "object": "product",
    "name": "Pro",
    "active": True,
    "metadata": {},
    "description": None,
    "default_price": None,
    "livemode": False,
    "created": 1767225600,
}
CREDIT_NOTE = {
    "id": "cn_1Qabc",
    "object": "credit_note",
    "customer": "cus_Qabc",
    "invoice": "in_1Qabc",
    "status": "issued",
    "type": "pre_payment",
    "currency": "usd",
    "subtotal": 500,
    "total": 500,
    "livemode": False,
    "created": 1767225600,
}
METER = {
    "id": "mtr_1Qabc",
    "object": "billing.meter",
    "display_name": "Calls",
    "event_name": "calls",
    "default_aggregation": {"formula": "sum"},
    "status": "active",
}
TAX_ID = {
    "id": "txi_1Qabc",
    "object": "tax_id",
    "type": "eu_vat",
    "value": "DE123456789",
    "country": "DE",
    "created": 1767225600,
    "verification": {"status": "pending"},
}
SETUP_INTENT = {
    "id": "seti_1Qabc",
    "object": "setup_intent",
    "status": "requires_action",
    "client_secret": "seti_1Qabc_secret_1",
    "customer": "cus_Qabc",
    "payment_method": None,
    "next_action": {"type": "redirect_to_url", "redirect_to_url": {"url": "https://hooks.stripe.com/1"}},
    "created": 1767225600,
}
PORTAL = {"id": "bps_1Qabc", "object": "billing_portal.session", "url": "https://billing.stripe.com/p/1"}
CHECKOUT: dict[str, Any] = {
    "customer": "cus_Qabc",
    "price": "price_1Qabc",
    "quantity": 2,
    "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.example/no",
    "client_reference_id": "demo-1",
    "trial_period_days": 14,
    "promotion_code": None,
    "metadata": {"user_id": "demo-1"},
    "idempotency_key": "k-1",
}
PACK_CHECKOUT: dict[str, Any] = {
    "customer": "cus_Qabc",
    "price": "price_1Qabc",
    "success_url": "https://shop.example/done",
    "cancel_url": "https://shop.example/no",
    "client_reference_id": "demo-1",
    "description": "Starter",
    "setup_future_usage": "off_session",
    "metadata": {"order": "7"},
    "idempotency_key": "k-1",
}
PORTAL_CALL: dict[str, Any] = {
    "customer": "cus_Qabc",
    "return_url": "https://shop.example/",
    "flow": None,
    "subscription": "sub_1Qabc",
}
NEW_PRICE: dict[str, Any] = {
    "product": "prod_Qabc",
    "currency": "usd",
    "unit_amount": 9900,
    "interval": "month",
    "lookup_key": "pro_monthly",
    "transfer_lookup_key": True,
    "metadata": {"plan": "pro"},
    "idempotency_key": "k-1",
}
PRODUCT_CALL: dict[str, Any] = {
    "id": "billhook_pro",
    "name": "Pro",
    "description": "All of it",
    "metadata": {"plan": "pro"},
    "idempotency_key": "k-1",
}
INTENT = {
    "id": "pi_3Qabc",
    "object": "payment_intent",
    "amount": 6500,
    "amount_capturable": 0,
    "amount_received": 6500,
    "capture_method": "automatic_async",
    "client_secret": "pi_3Qabc_secret_x",
    "created": 1767225600,
    "currency": "usd",
    "customer": "cus_Qabc",
    "livemode": False,
    "metadata": {"order": "7"},
    "next_action": None,
    "status": "succeeded",
}
CHARGE = {
    "id": "ch_3Qabc",
    "object": "charge",
    "amount": 6500,
    "amount_captured": 6500,
    "amount_refunded": 0,
    "captured": True,
    "created": 1767225600,
    "currency": "usd",
    "disputed": False,
    "livemode": False,
    "metadata": {},
    "payment_intent": "pi_3Qabc",
    "refunded": False,
    "status": "succeeded",
}
REFUND = {"id": "re_3Qabc", "object": "refund", "amount": 500, "currency": "usd", "created": 1767225600}
DISPUTE = {
    "id": "du_1Qabc",
    "object": "dispute",
    "amount": 6500,
    "charge": "ch_3Qabc",
    "created": 1767225600,
    "currency": "usd",
    "evidence_details": {"due_by": 1767916799},
    "livemode": False,
    "metadata": {},
    "reason": "fraudulent",
    "status": "needs_response",
}
TRANSACTION = {
    "id": "txn_3Qabc",
    "object": "balance_transaction",
    "amount": 6500,
    "available_on": 1767830400,
    "created": 1767225600,
    "currency": "usd",
    "fee": 219,
    "net": 6281,
    "reporting_category": "charge",
    "source": "ch_3Qabc",
    "status": "pending",
    "type": "charge",
}
BALANCE = {"object": "balance", "available": [{"amount": 0, "currency": "usd"}], "pending": [], "livemode": False}
PAYMENT: dict[str, Any] = {
    "amount": 6500,
    "currency": "usd",
    "customer": "cus_Qabc",
    "metadata": {"order": "7"},
    "idempotency_key": "k-1",
}
