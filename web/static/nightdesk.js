// Keeps the page fresh: prices at once, everything else by fetching the board again; counts ages up.
"use strict";

(() => {
  const EVERY = 5000; // ms between refreshes; on the clock's grid, so that viewers share the server's snapshot
  const SOON = 1000; // at most one refresh a second, however many events come
  const AGAIN = 2000; // after a failure
  const PATIENCE = 8000;

  const $ = (id) => document.getElementById(id);
  const board = $("board");
  let ahead = 0; // the server's clock minus ours, ms
  let stream = null;
  let timer = 0;
  let fetchedAt = 0;
  let fetching = false;
  let loggedOut = false;

  // Time

  function whole(ms) {
    const seconds = Math.max(0, Math.floor(ms / 1000));
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${seconds} s`;
  }

  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  const words = {
    age: (at, now) => whole(now - at),
    ago: (at, now) => `${whole(now - at)} ago`,
    at: (at) => full.format(at),
    due: (at, now) => (at - now >= 1000 ? `in ${whole(at - now)}` : at - now > -2000 ? "now" : `${whole(now - at)} overdue`),
  };

  function tick() {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll("time[data-tick]")) {
      let at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const every = time.dataset.every * 1000; // until the next refresh tells, the schedule goes on as it did
      if (every && at < now) at += Math.ceil((now - at) / every) * every;
      const text = words[time.dataset.tick](at, now);
      if (time.textContent !== text) time.textContent = text;
      if (time.title !== full.format(at)) time.title = full.format(at);
    }
  }

  // The board: what is the same stays, so that focus, open parts and a press of a button survive

  function morph(old, fresh) {
    if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const wanted = [...fresh.childNodes];
    wanted.forEach((child, i) => {
      let mine = old.childNodes[i];
      if (child.id !== mine?.id && (child.id || mine?.id)) {
        const known = child.id && [...old.children].find((element) => element.id === child.id);
        old.insertBefore(known || child, mine || null);
        mine = known;
      } else if (!mine) {
        old.append(child);
      }
      if (mine) morph(mine, child);
    });
    while (old.childNodes.length > wanted.length) old.lastChild.remove();
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("board");
    if (!fresh) throw new Error("no board");
    const held = document.activeElement;
    morph(board, fresh);
    if (document.activeElement !== held) (held.isConnected ? held : board).focus({ preventScroll: true });
    ahead = Date.parse(board.dataset.at) - Date.now();
    document.title = board.dataset.title;
  }

  async function refresh() {
    clearTimeout(timer);
    if (fetching || loggedOut) return;
    fetching = true;
    try {
      const answer = await fetch("/fragment", { signal: AbortSignal.timeout(PATIENCE) });
      if (answer.ok) {
        show(await answer.text());
        back();
      } else if (answer.status === 401) {
        loggedOut = true;
        stream?.close();
        away("Your session has ended.");
      } else {
        away(await reason(answer));
      }
    } catch {
      away("Nightdesk does not answer.");
    }
    fetching = false;
    fetchedAt = Date.now();
    tick();
    const wait = $("away").hidden ? EVERY - ((Date.now() + ahead) % EVERY) : AGAIN;
    if (!document.hidden) timer = setTimeout(refresh, Math.max(wait, SOON));
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.max(0, fetchedAt + SOON - Date.now()));
  }

  async function reason(answer) {
    try {
      return (await answer.json()).error;
    } catch {
      return `Nightdesk answers with ${answer.status}.`;
    }
  }

  function away(why) {
    $("away-since").dateTime = board.dataset.at;
    if ($("away-why").textContent !== why) $("away-why").textContent = why;
    $("away-then").hidden = loggedOut;
    $("away-login").hidden = !loggedOut;
    $("away").hidden = false;
  }

  function back() {
    $("away").hidden = true;
    $("away-why").textContent = "";
    if (!stream || stream.readyState === EventSource.CLOSED) listen();
  }

  // The event stream

  function listen() {
    stream?.close();
    stream = new EventSource("/events");
    stream.onmessage = ({ data }) => {
      const { topic, payload } = JSON.parse(data);
      if (topic === "quote") quote(payload);
      else if (payload) soon(); // a fact; a greeting has none
    };
    stream.onerror = soon;
  }

  function quote(news) {
    const row = [...board.querySelectorAll("[data-symbol]")].find((each) => each.dataset.symbol === news.symbol);
    if (!row || Date.parse(row.querySelector("time")?.dateTime) > Date.parse(news.happened_at)) return;
    const moved = Number(news.price) - Number(news.previous);
    const texts = {
      source: news.source,
      price: amount(news.price),
      previous: amount(news.previous),
      direction: moved > 0 ? "▲" : moved < 0 ? "▼" : "",
    };
    for (const field of row.querySelectorAll("[data-field]")) field.textContent = texts[field.dataset.field];
    row.querySelector("time")?.setAttribute("datetime", news.happened_at);
    const cell = row.querySelector(".price");
    cell.classList.remove("moved");
    void cell.offsetWidth; // starts the animation anew
    cell.classList.add("moved");
    tick();
  }

  function amount(digits) {
    if (digits === null) return "–";
    const [before, after = ""] = digits.split(".");
    return `${before}.${after.replace(/0+$/, "").padEnd(2, "0")}`;
  }

  // Buttons: plain forms, sent without leaving the page

  let quiet = 0;

  function say(text) {
    $("say").textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => ($("say").textContent = ""), 6000);
  }

  document.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (event.target.id !== "act" || button?.dataset.plain !== undefined) return;
    event.preventDefault();
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    try {
      const headers = { accept: "application/json", "x-csrf": event.target.elements.csrf.value };
      const answer = await fetch(button.formAction, { method: "POST", headers, signal: AbortSignal.timeout(PATIENCE) });
      say(answer.ok ? (await answer.json()).says : `Not done: ${await reason(answer)}`);
    } catch {
      say("Not done, as far as we know: Nightdesk does not answer.");
    }
    button.removeAttribute("aria-disabled");
    button.closest("details")?.removeAttribute("open");
    refresh();
  });

  document.addEventListener("keydown", (event) => {
    const open = event.key === "Escape" && event.target.closest?.("details[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      stream?.close();
    } else {
      refresh();
    }
  });

  $("zone").textContent = `Times are in ${full.resolvedOptions().timeZone}.`;
  ahead = Date.parse(board.dataset.at) - Date.now();
  setInterval(tick, 1000);
  refresh();
})();
