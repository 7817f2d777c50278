// Where Checkout sends the buyer: asks for the outcome at once, then shows when the webhook said the same.

import { get } from "./api.js";
import { watchArrivals } from "./arrivals.js";
import { date, milliseconds } from "./format.js";
import { fill, showError } from "./page.js";

const sessionId = new URLSearchParams(location.search).get("session_id") ?? "";
const receipt = document.getElementById("receipt");
const outcome = document.getElementById("outcome");

showOutcome();
watchArrivals(showWebhook);

async function showOutcome() {
  try {
    const session = await get(`/checkout/session/${encodeURIComponent(sessionId)}`);
    const [title, text] = describe(session);
    outcome.textContent = title;
    document.title = `${title} · Billhook demo`;
    document.getElementById("outcome-text").textContent = text;
    prove("proof-checkout", "The API asked Stripe the moment you came back, so this page never has to wait.");
  } catch (error) {
    outcome.textContent = "We can’t find this purchase";
    document.getElementById("proof-checkout").hidden = true;
    document.getElementById("proof-webhook").hidden = true;
    showError(error);
  }
  receipt.ariaBusy = "false";
  outcome.focus();
}

function describe({ status, payment_status: payment, subscription }) {
  if (status === "expired") return ["This checkout has expired", "Nothing was charged. Pick a plan to start again."];
  if (status !== "complete") return ["Not paid yet", "This checkout is still open. Nothing was charged."];
  if (!subscription) return ["Thank you", payment === "unpaid" ? "Your bank is still working on the payment." : "Your payment is complete."];
  const name = subscription.plan_name ?? "your plan";
  return subscription.status === "trialing"
    ? [`Your ${name} trial has begun`, `Free until ${date(subscription.trial_end)}. After that your card is charged, unless you cancel.`]
    : [`You’re on ${name}`, `Your subscription is ${subscription.status}, until ${date(subscription.current_period_end)} at first.`];
}

function showWebhook(arrivals) {
  const event = arrivals.find(({ type, object_id: id }) => id === sessionId && type.startsWith("checkout.session."));
  if (event?.status !== "processed") return;
  prove("proof-webhook", `${event.type} arrived, its signature was right, and it was applied ${milliseconds(event.applied_after_ms)} later.`);
}

function prove(id, text) {
  const step = document.getElementById(id);
  step.dataset.state = "done";
  fill(step, { text });
}
