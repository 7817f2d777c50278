// The last events that arrived, asked for every two seconds while somebody looks.

import { getOwn } from "./api.js";
import { clock, milliseconds } from "./format.js";
import { badge, fill, stamp } from "./page.js";

const EVERY = 2000;
const rows = document.getElementById("arrivals");
const status = document.getElementById("arrivals-status");

/** Keeps the list fresh and hands each changed list to `onChange`. A failed look is simply tried again. */
export async function watchArrivals(onChange) {
  let known = "[]";
  for (;;) {
    if (!document.hidden) {
      const arrivals = await getOwn("/demo/events").catch(() => null);
      const seen = JSON.stringify(arrivals);
      if (arrivals && seen !== known) {
        known = seen;
        render(arrivals);
        onChange(arrivals);
      }
    }
    await new Promise((resume) => setTimeout(resume, EVERY));
  }
}

function render(arrivals) {
  rows.replaceChildren(...arrivals.map(row));
  document.getElementById("arrivals-table").hidden = false;
  document.getElementById("arrivals-none").hidden = true;
  status.textContent = `${arrivals.length} events, the last one is ${arrivals[0].type}, ${arrivals[0].status}.`;
}

function row(arrival) {
  const element = stamp("arrival-template");
  fill(element, {
    type: arrival.type,
    received: clock(arrival.received_at),
    applied: arrival.applied_after_ms === null ? "–" : milliseconds(arrival.applied_after_ms),
  });
  element.querySelector("time").dateTime = new Date(arrival.received_at * 1000).toISOString();
  badge(element.querySelector('[data-field="status"]'), arrival.status);
  return element;
}
