// What every page does with its elements: fill templates, show badges, say what went wrong.

const alertBox = document.getElementById("alert");

const BILLING_LINK = { href: "/demo/billing", text: "Manage it on the billing page" };
const LINKS = { 401: { href: "/demo", text: "Sign in again" } };

/** Text for each `data-field` below `root`; an empty one is hidden. */
export function fill(root, texts) {
  for (const [name, text] of Object.entries(texts)) {
    const element = root.querySelector(`[data-field="${name}"]`);
    element.textContent = text || "";
    element.hidden = !text;
  }
}

/** A copy of the template's one element. */
export function stamp(templateId) {
  return document.getElementById(templateId).content.firstElementChild.cloneNode(true);
}

export function item(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}

const TONES = {
  active: "good",
  trialing: "good",
  paid: "good",
  processed: "good",
  open: "warn",
  pending: "warn",
  past_due: "bad",
  unpaid: "bad",
  uncollectible: "bad",
  incomplete: "bad",
  dead: "bad",
};

/** A status in its own word, coloured by what it means; unknown ones stay neutral. */
export function badge(element, status) {
  element.textContent = status.replaceAll("_", " ");
  element.dataset.tone = TONES[status] ?? "neutral";
  element.hidden = false;
}

/** Says in the page what an action's error says; errors that aren't the API's are ours and go to the console. */
export function showError(error) {
  if (error.status === undefined) throw error;
  const notice = stamp("alert-template");
  const link = error.status === 409 && location.pathname !== BILLING_LINK.href ? BILLING_LINK : LINKS[error.status];
  fill(notice, { message: error.message, link: link?.text });
  if (link) notice.querySelector("a").href = link.href;
  notice.querySelector("button").addEventListener("click", () => alertBox.replaceChildren());
  alertBox.replaceChildren(notice);
}

/** Runs `action` when the button is pressed, once at a time. The button keeps the focus, which `disabled` would lose. */
export function onPress(button, action) {
  button.addEventListener("click", async () => {
    if (button.ariaDisabled === "true") return;
    alertBox.replaceChildren();
    button.ariaDisabled = "true";
    try {
      await action();
    } catch (error) {
      showError(error);
    } finally {
      button.ariaDisabled = "false";
    }
  });
}
