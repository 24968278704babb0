// Asks for the same address again and replaces what changed. The page is whole without it.
"use strict";

const PAUSE = 2000;
const live = document.getElementById("live");

function addCopyButtons(within) {
  for (const code of within.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard || code.nextElementSibling?.matches(".copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    code.after(button);
  }
}

// Somebody reads or walks through it: it waits.
function isInUse(part) {
  const selected = document.getSelection();
  return (selected && !selected.isCollapsed && part.contains(selected.anchorNode)) || part.contains(document.activeElement);
}

function replace(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || isInUse(part)) continue;
    const scrolled = [...part.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
    const whole = document.adoptNode(other);
    addCopyButtons(whole);
    if (part.isEqualNode(whole)) continue;
    part.replaceWith(whole);
    whole.querySelectorAll(".scroll").forEach((one, at) => {
      if (scrolled[at]) [one.scrollLeft, one.scrollTop] = scrolled[at];
    });
  }
}

// A document that the browser parses itself: nothing here makes HTML of text.
function ask() {
  const request = new XMLHttpRequest();
  request.open("GET", location.pathname + location.search);
  request.responseType = "document";
  request.timeout = 10000;
  request.onloadend = () => {
    const well = request.status === 200 && request.response;
    if (well) replace(request.response);
    live.textContent = well ? "Live" : request.status === 401 ? "Signed out" : "No answer";
    live.classList.toggle("lost", !well);
    if (request.status !== 401) setTimeout(tick, PAUSE);
  };
  request.send();
}

function tick() {
  if (document.hidden) {
    document.addEventListener("visibilitychange", ask, { once: true });
  } else {
    ask();
  }
}

live.hidden = false;
addCopyButtons(document);
setTimeout(tick, PAUSE);
