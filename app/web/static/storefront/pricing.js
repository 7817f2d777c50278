// The pricing table: what is sold, which plan is the visitor's, and the way to Checkout.

import { get, post } from "./api.js";
import { limit, money, words } from "./format.js";
import { fill, item, onPress, showError, stamp } from "./page.js";

const list = document.getElementById("plans");
const signedIn = Boolean(document.body.dataset.user);

const [plans, tier] = await Promise.all([get("/plans"), currentTier()]).catch((error) => {
  showError(error);
  return [[], null];
});
list.replaceChildren(...plans.map(card));
list.ariaBusy = "false";

async function currentTier() {
  return signedIn ? (await get("/subscription/status")).tier : null;
}

function card(plan) {
  const element = stamp("plan-template");
  const current = plan.plan === tier;
  fill(element, {
    name: plan.name,
    badge: current ? "Your plan" : plan.trial_days ? `${plan.trial_days}-day free trial` : "",
    description: plan.description,
    price: money(plan.plan_amount_minor, plan.currency, { whole: true }),
    per: plan.plan_amount_minor ? `per ${plan.interval}` : "forever",
    terms: terms(plan),
  });
  element.querySelector('[data-field="included"]').append(
    ...Object.entries(plan.limits).map(([key, count]) => item(limit(key, count))),
    ...plan.features.map((feature) => item(words(feature))),
  );
  element.dataset.current = current;
  element.dataset.trial = Boolean(plan.trial_days);
  element.querySelector('[data-action="sign-in"]').hidden = signedIn;
  element.querySelector('[data-action="manage"]').hidden = !current;
  const buy = element.querySelector('[data-action="buy"]');
  buy.hidden = !signedIn || current || !plan.plan_amount_minor;
  buy.textContent = plan.trial_days ? `Start ${plan.name} trial` : `Buy ${plan.name}`;
  onPress(buy, () => checkout(plan.plan));
  return element;
}

function terms(plan) {
  if (!plan.plan_amount_minor) return "No card needed.";
  if (!plan.trial_days) return `Billed every ${plan.interval}. Cancel whenever you like.`;
  const today = money(0, plan.currency);
  const later = money(plan.plan_amount_minor, plan.currency);
  return `First invoice ${today}; after ${plan.trial_days} days ${later} a ${plan.interval}. One trial per customer.`;
}

async function checkout(plan) {
  const { url } = await post("/checkout/session", {
    plan,
    success_url: `${location.origin}/demo/success?session_id={CHECKOUT_SESSION_ID}`,
    cancel_url: `${location.origin}/demo`,
  });
  location.assign(url);
}
