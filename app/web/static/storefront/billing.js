// The billing page: plan, card and invoices as the API tells them, read again whenever an event arrived.

import { get, post } from "./api.js";
import { watchArrivals } from "./arrivals.js";
import { date, money, words } from "./format.js";
import { badge, fill, onPress, showError, stamp } from "./page.js";

const byId = (id) => document.getElementById(id);
const panel = byId("subscription");
const dialog = byId("cancel-dialog");
const ENDED = new Set(["canceled", "incomplete_expired"]);
const OWING = new Set(["past_due", "unpaid", "incomplete"]);
let loads = 0;

onPress(byId("cancel"), async () => dialog.showModal());
onPress(byId("resume"), () => change("/subscription/resume", {}, "cancel"));
onPress(byId("portal"), async () => {
  const { url } = await post("/portal", { return_url: `${location.origin}/demo/billing` });
  location.assign(url);
});
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "cancel") change("/subscription/cancel", { at_period_end: true }, "resume").catch(showError);
  dialog.returnValue = "";
});

await load();
watchArrivals(load);

/** The pressed button disappears: the focus goes to the one that takes its place. */
async function change(path, body, nextButton) {
  const { message } = await post(path, body);
  byId("billing-status").textContent = message;
  await load();
  byId(nextButton).focus();
}

/** Of two that run at once, the one that began last is shown. */
async function load() {
  loads += 1;
  const own = loads;
  try {
    const [{ status, tier }, cards, invoices] = await Promise.all([
      get("/subscription/status"),
      get("/payment-methods"),
      get("/invoices?limit=10"),
    ]);
    const subscription = status === "none" ? null : await get("/subscription");
    if (own !== loads) return;
    showSubscription(subscription, tier);
    show("cards", cards, card);
    show("invoices", invoices, invoice);
    byId("portal").hidden = !subscription && !cards.length && !invoices.length;
    panel.ariaBusy = "false";
  } catch (error) {
    showError(error);
  }
}

function showSubscription(subscription, tier) {
  const live = subscription && !ENDED.has(subscription.status);
  byId("choose").hidden = Boolean(live);
  byId("cancel").hidden = !live || subscription.cancel_at_period_end;
  byId("resume").hidden = !live || !subscription.cancel_at_period_end;
  fill(panel, {
    status: null,
    plan: subscription ? (subscription.plan_name ?? "Your own") : words(tier),
    summary: subscription ? summary(subscription) : "You haven’t bought anything yet.",
  });
  panel.querySelector("dl").replaceChildren(...(subscription ? facts(subscription) : []));
  if (!subscription) return;
  badge(panel.querySelector('[data-field="status"]'), subscription.status);
  fill(dialog, { plan: subscription.plan_name ?? "your plan", end: date(subscription.current_period_end) });
}

function summary(subscription) {
  const { status, current_period_end: end, trial_end: trialEnd } = subscription;
  const amount = subscription.plan_amount_minor;
  const price = amount === null ? "billed as agreed" : `${money(amount, subscription.currency)} a ${subscription.interval}`;
  if (ENDED.has(status)) return subscription.ended_at ? `Ended on ${date(subscription.ended_at)}.` : "Ended.";
  if (OWING.has(status)) return "The last payment didn’t go through. Put in another card in the billing portal.";
  if (subscription.cancel_at_period_end) return `Canceled: yours until ${date(end)}, then it ends.`;
  if (status === "trialing") return `Free until ${date(trialEnd)}, then ${price}.`;
  return `${price}. Renews on ${date(end)}.`;
}

function facts(subscription) {
  const { current_period_start: start, current_period_end: end, trial_end: trialEnd } = subscription;
  return [
    ["Current period", start && end && `${date(start)} to ${date(end)}`],
    ["Trial ends", trialEnd && date(trialEnd)],
    ["Subscription", subscription.id],
  ]
    .filter(([, text]) => text)
    .map(([term, text]) => {
      const pair = document.createElement("div");
      pair.append(Object.assign(document.createElement("dt"), { textContent: term }));
      pair.append(Object.assign(document.createElement("dd"), { textContent: text }));
      return pair;
    });
}

/** Fills the list `id` with a row for each thing; an empty list shows its "none" line instead. */
function show(id, things, row) {
  byId(id).replaceChildren(...things.map(row));
  byId(`${id}-none`).hidden = things.length > 0;
  const table = byId(`${id}-table`);
  if (table) table.hidden = things.length === 0;
}

function card({ brand, type, last4, exp_month: month, exp_year: year, is_default: isDefault }) {
  const element = stamp("card-template");
  fill(element, {
    brand: brand ?? type,
    last4,
    expiry: month && `${String(month).padStart(2, "0")}/${year}`,
    default: isDefault && "Default",
  });
  return element;
}

function invoice({ number, id, created, status, total_minor: total, currency, invoice_pdf: pdf }) {
  const element = stamp("invoice-template");
  fill(element, { number: number ?? "Draft", date: date(created), amount: money(total, currency) });
  element.querySelector("time").dateTime = new Date(created * 1000).toISOString();
  badge(element.querySelector('[data-field="status"]'), status ?? "draft");
  const link = element.querySelector("a");
  link.hidden = !pdf;
  if (pdf) link.href = pdf;
  link.ariaLabel = `PDF of invoice ${number ?? id}`;
  return element;
}
