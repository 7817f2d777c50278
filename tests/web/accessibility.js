// What a page does wrong for people who can't see or point: a list of findings, empty when all is well.
() => {
  const findings = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const show = (element) => element.outerHTML.slice(0, 90).replace(/\s+/g, " ");
  const find = (problem, element) => findings.push(element ? `${problem}: ${show(element)}` : problem);

  if (!document.documentElement.lang) find("no language");
  if (!document.title) find("no title");
  if (all("h1").filter(seen).length !== 1) find("not exactly one h1");
  for (const landmark of ["header", "nav", "main", "footer"]) {
    if (!document.querySelector(landmark)) find(`no ${landmark}`);
  }

  let level = 0;
  for (const heading of all("h1, h2, h3, h4").filter(seen)) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) find("heading level skipped", heading);
    level = next;
  }

  const ids = all("[id]").map((element) => element.id);
  for (const id of ids.filter((id, index) => ids.indexOf(id) !== index)) find(`id used twice: ${id}`);
  for (const element of all("[aria-labelledby], [aria-describedby]")) {
    const named = `${element.getAttribute("aria-labelledby") ?? ""} ${element.getAttribute("aria-describedby") ?? ""}`;
    for (const id of named.trim().split(/\s+/)) if (!ids.includes(id)) find(`names nothing: ${id}`, element);
  }

  for (const image of all("img:not([alt])")) find("image without alt", image);
  for (const field of all("input:not([type=hidden]), select, textarea")) {
    if (!field.labels.length && !field.ariaLabel) find("field without label", field);
  }
  for (const control of all("a, button").filter(seen)) {
    if (!(control.ariaLabel ?? control.textContent).trim()) find("control without name", control);
    const { height } = control.getBoundingClientRect();
    if (height < 24 && getComputedStyle(control).display !== "inline") find("target lower than 24 px", control);
  }
  for (const element of all("[onclick], div[role=button], [tabindex]")) {
    if (element.hasAttribute("onclick") || element.role === "button" || element.tabIndex > 0) find("not operable", element);
  }

  // WCAG 1.4.3, on the colours as computed. Backgrounds here are never half transparent.
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(element)) continue;
    const style = getComputedStyle(element);
    const [dark, light] = [luminance(style.color), luminance(background(element))].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) find(`contrast ${ratio.toFixed(2)}`, element);
  }
  return findings;
};
