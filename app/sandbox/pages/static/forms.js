// Comfort alone: every page works without this file.

/** Regroup what is typed, keeping the caret behind the digit it stood behind. */
function group(input, pattern, separator) {
  const typed = input.selectionStart;
  const digits = (text) => text.replace(/\D/g, "");
  const before = digits(input.value.slice(0, typed)).length;
  input.value = digits(input.value).replace(pattern, `$1${separator}`);
  let caret = 0;
  for (let seen = 0; seen < before; caret += 1) {
    if (/\d/.test(input.value[caret])) seen += 1;
  }
  if (typed === null || document.activeElement !== input) return;
  input.setSelectionRange(caret, caret);
}

for (const input of document.querySelectorAll("[data-group=number]")) {
  input.addEventListener("input", () => group(input, /(\d{4})(?=\d)/g, " "));
}
for (const input of document.querySelectorAll("[data-group=expiry]")) {
  input.addEventListener("input", () => group(input, /^(\d{2})(?=\d)/, " / "));
}

// The server pays once however often it is asked; a button that rests says so.
for (const form of document.forms) {
  form.addEventListener("submit", () => {
    // After this turn: a button disabled at once would not be sent with its form.
    setTimeout(() => form.querySelectorAll("button").forEach((button) => (button.disabled = true)));
  });
}
window.addEventListener("pageshow", () => {
  document.querySelectorAll("button").forEach((button) => (button.disabled = false));
});
