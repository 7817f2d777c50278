// Amounts, dates and the catalogue's words, as people read them.

const language = document.documentElement.lang;
const { zeroDecimal, threeDecimal } = document.body.dataset;
// Stripe's table, handed over by the server: it differs from the browser's (ISK has two decimals at Stripe).
const zero = new Set(zeroDecimal.split(" "));
const three = new Set(threeDecimal.split(" "));
const ACRONYMS = new Set(["api", "sso"]);

/** `amount` in minor units. A decimal string keeps it exact; `whole` leaves out ".00". */
export function money(amount, currency, { whole = false } = {}) {
  const digits = zero.has(currency) ? 0 : three.has(currency) ? 3 : 2;
  return new Intl.NumberFormat(language, {
    style: "currency",
    currency,
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    trailingZeroDisplay: whole ? "stripIfInteger" : "auto",
  }).format(`${amount}e-${digits}`);
}

/** `seconds` since 1970. */
export const date = (seconds) =>
  new Intl.DateTimeFormat(language, { dateStyle: "long" }).format(new Date(seconds * 1000));

export const clock = (seconds) =>
  new Intl.DateTimeFormat(language, { timeStyle: "medium", hour12: false }).format(new Date(seconds * 1000));

export const milliseconds = (count) => `${new Intl.NumberFormat(language).format(count)} ms`;

/** "priority_support" → "Priority support", "api_access" → "API access". */
export function words(key) {
  const text = key
    .split("_")
    .map((word) => (ACRONYMS.has(word) ? word.toUpperCase() : word))
    .join(" ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** ("seats", 1) → "1 seat", ("api_calls", 10000) → "10,000 API calls", ("seats", null) → "Unlimited seats". */
export function limit(key, count) {
  const name = words(key);
  const noun = name.startsWith("API") ? name : name.toLowerCase();
  if (count === null) return `Unlimited ${noun}`;
  return `${new Intl.NumberFormat(language).format(count)} ${count === 1 ? noun.replace(/s$/, "") : noun}`;
}
