// Credits: free uses burn down, then there is an offer, then a purchase, then a new balance.

import { get, post, postOwn } from "./api.js";
import { watchArrivals } from "./arrivals.js";
import { clock, money, words } from "./format.js";
import { fill, onPress, showError, stamp } from "./page.js";

const byId = (id) => document.getElementById(id);
const panel = byId("balance");
const PAYMENT_REQUIRED = 402;
let loads = 0;
const free = Number(byId("pips").dataset.free);

const packs = await get("/packs").catch((error) => {
  showError(error);
  return [];
});
byId("packs").replaceChildren(...packs.map(pack));
byId("packs").ariaBusy = "false";
onPress(byId("ask"), ask);
onPress(byId("take-offer"), () => buy(byId("take-offer").dataset.pack));

await settle();
await load();
watchArrivals(load);

async function ask() {
  try {
    const { answer } = await postOwn("/demo/ask");
    byId("answer").textContent = answer;
  } catch (error) {
    if (error.status !== PAYMENT_REQUIRED) throw error;
    byId("answer").textContent = "The oracle is silent.";
  }
  await load();
}

async function buy(key) {
  const { url } = await post("/purchases", {
    pack: key,
    success_url: `${location.origin}/demo/credits?bought=1`,
    cancel_url: `${location.origin}/demo/credits`,
  });
  location.assign(url);
}

/** Back from Checkout: the API asks Stripe at once, so the new balance does not wait for the webhook. */
async function settle() {
  if (!new URLSearchParams(location.search).has("bought")) return;
  try {
    const [latest] = await get("/purchases?limit=1");
    const purchase = latest && (await get(`/purchases/${latest.id}`));
    const done = purchase?.status === "succeeded";
    const told = done ? `${purchase.uses_purchased} uses have been added.` : "The payment is not through yet.";
    byId("credits-status").textContent = told;
    byId("answer").textContent = told;
  } catch (error) {
    showError(error);
  }
}

/** Of two that run at once, the one that began last is shown. */
async function load() {
  loads += 1;
  const own = loads;
  try {
    const [check, transfers] = await Promise.all([post("/credits/check"), get("/credits/ledger?limit=12")]);
    if (own !== loads) return;
    showBalance(check);
    showOffer(check);
    byId("ledger").replaceChildren(...transfers.map(transfer));
    byId("ledger-none").hidden = transfers.length > 0;
    byId("ledger-table").hidden = !transfers.length;
    panel.ariaBusy = "false";
  } catch (error) {
    showError(error);
  }
}

function showBalance(check) {
  const { free_uses_remaining: freeLeft, credits_remaining: paid, held, owed, total_uses: used } = check;
  const available = freeLeft + paid;
  fill(panel, {
    available: String(available),
    unit: available === 1 ? "use left" : "uses left",
    badge: freeLeft ? "free" : "",
  });
  byId("pips").ariaLabel = `${freeLeft} of ${free} free uses left`;
  byId("pips").replaceChildren(
    ...Array.from({ length: free }, (_, place) => {
      const pip = document.createElement("li");
      pip.dataset.left = place < freeLeft;
      return pip;
    }),
  );
  const facts = { Free: freeLeft, Bought: paid, Used: used, Held: held, Owed: owed };
  panel.querySelector("[data-field=facts]").replaceChildren(
    ...Object.entries(facts)
      .filter(([name, count]) => count || name === "Used")
      .map(([name, count]) => {
        const group = document.createElement("div");
        const term = document.createElement("dt");
        const value = document.createElement("dd");
        term.textContent = name;
        value.textContent = String(count);
        group.append(term, value);
        return group;
      }),
  );
}

function showOffer({ purchase_required: required, purchase_pack: key, purchase_uses: uses, purchase_price_minor: price, purchase_currency: currency, owed }) {
  const offer = byId("offer");
  offer.hidden = !required || !key;
  byId("ask").hidden = required;
  if (offer.hidden) return;
  fill(offer, {
    title: owed ? `${owed} uses are owed.` : "That was the last one.",
    text: `${uses} more for ${money(price, currency, { whole: true })}.`,
  });
  byId("take-offer").dataset.pack = key;
  byId("take-offer").textContent = `Buy ${uses} uses`;
}

function pack({ pack: key, name, description, uses, amount_minor: price, currency }) {
  const element = stamp("pack-template");
  fill(element, { name, description, price: money(price, currency, { whole: true }), per: `for ${uses} uses` });
  const button = element.querySelector("button");
  button.textContent = `Buy ${name}`;
  onPress(button, () => buy(key));
  return element;
}

function transfer({ kind, source, destination, amount, balance_after: balance, created_at: at }) {
  const element = stamp("transfer-template");
  fill(element, {
    kind: words(kind),
    source: words(source),
    destination: words(destination),
    amount: String(amount),
    balance: String(balance),
    created: clock(at),
  });
  element.querySelector("time").dateTime = new Date(at * 1000).toISOString();
  return element;
}
