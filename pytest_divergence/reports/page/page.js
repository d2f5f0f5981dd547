"use strict";
// Sorts, filters, copies, and points at tokens. All that it shows is already in the page, and it
// inserts text only as text.
(() => {
  document.documentElement.classList.add("js");

  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const made = (name, className = "", text = "") => {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.textContent = text;
    return element;
  };
  const say = (text) => { document.getElementById("said").textContent = text; };

  // Copying

  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // not granted, or an old browser
      const box = made("textarea", "sr-only");
      box.value = text;
      document.body.append(box);
      box.select();
      const isDone = document.execCommand("copy");
      box.remove();
      return isDone;
    }
  };
  const copy = async (button) => {
    const { exact } = button.dataset;
    const shown = button.closest(".copyable").querySelector(".copied").textContent;
    const isDone = await copied(exact === undefined ? shown : JSON.parse(exact));
    button.textContent = isDone ? "Copied" : "Not copied";
    say(button.textContent);
    button.focus();
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // Cases: open, sort, filter

  const detailsOf = (element) => element.closest("tbody").querySelector("details");
  const toggle = (row) => { const details = detailsOf(row); details.open = !details.open; };
  const follow = (details) => {
    const body = details.closest("tbody.case");
    if (!body) return;
    body.querySelector(".row a").setAttribute("aria-expanded", String(details.open));
    if (!details.open) return;
    for (const heat of all(".heat", details)) {
      const tokens = all(".t", heat);
      const first = heat.querySelector("[data-first]") || tokens[0];
      for (const token of tokens) token.tabIndex = token === first ? 0 : -1;
      inspect(first);
    }
  };
  const show = (id) => {
    const place = id && document.getElementById(id);
    const body = place && place.closest("tbody.case");
    if (!body) return;
    body.hidden = false;
    detailsOf(place).open = true;
    body.scrollIntoView();
  };

  const valueOf = (body, column, kind) => {
    const cell = body.querySelector(".row").cells[column];
    if (kind !== "number") return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const sort = (header) => {
    const table = header.closest("table");
    const kind = header.dataset.sort;
    const before = header.getAttribute("aria-sort");
    const isDown = before ? before === "ascending" : kind === "number";
    const rows = [...table.tBodies].map((body) => [valueOf(body, header.cellIndex, kind), body]);
    rows.sort(([left], [right]) => {
      if (left === null || right === null) return (left === null) - (right === null);
      const difference = kind === "number" ? left - right : order(left, right);
      return isDown ? -difference : difference;
    });
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    table.append(...rows.map(([, body]) => body));
    say(`Sorted by ${header.textContent}, ${isDown ? "descending" : "ascending"}`);
  };

  const textOf = new Map();
  const searched = (body) => {
    if (!textOf.has(body)) textOf.set(body, body.textContent.toLowerCase());
    return textOf.get(body);
  };
  const filter = (box) => {
    const value = (name) => (box.querySelector(`[name=${name}]`) || { value: "" }).value;
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = ["verdict", "strategy", "behaviour"].map((name) => [name, value(name)]);
    const bodies = all("tbody.case", box.closest("section"));
    let left = 0;
    for (const body of bodies) {
      const isWanted = wanted.every(([name, word]) => !word || body.dataset[name] === word)
        && words.every((word) => searched(body).includes(word));
      body.hidden = !isWanted;
      left += isWanted;
    }
    box.querySelector("output").textContent = `${left} of ${bodies.length} cases`;
    box.closest("section").querySelector(".none-left").hidden = left > 0;
  };

  // Tokens

  const alternative = (text, written) => {
    const end = text.indexOf(" ");
    const [shown, token] = [text.slice(0, end), text.slice(end + 1)];
    const item = made("li", token === written ? "written" : "");
    const rail = made("div", "rail-of");
    const share = made("i");
    share.style.width = `${100 * (Number(shown) || 0)}%`;
    rail.append(share);
    item.append(made("q", "", token), rail, made("span", "", shown));
    return item;
  };
  const side = ([name, likelihood, ...rivals], written) => {
    const box = made("div", name);
    const list = made("ol");
    list.append(...rivals.map((rival) => alternative(rival, written)));
    box.append(made("b", "", name === "reference" ? "Reference" : "Candidate"), ` ${likelihood}`, list);
    return box;
  };
  const inspect = (token) => {
    const heat = token.closest(".heat");
    const [where, kl, ...sides] = token.getAttribute("aria-description").split("\n")
      .map((line) => line.split("\t"));
    const written = where[1].slice(1, -1);
    const box = made("div", "where");
    box.append(made("span", "", where[0]), made("q", "", written),
      ...kl.map((part) => made("span", "", part)));
    heat.nextElementSibling.replaceChildren(box, ...sides.map((parts) => side(parts, written)));
    for (const before of all(".t.now", heat)) before.classList.remove("now");
    token.classList.add("now");
    mark(heat, all(".t", heat).indexOf(token));
  };
  const mark = (heat, position) => {
    const profile = heat.previousElementSibling.firstElementChild;
    let now = profile.querySelector(".now");
    if (!now) {
      now = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [name, value] of [["class", "now"], ["y", 0], ["width", 1], ["height", 20]]) {
        now.setAttribute(name, value);
      }
      profile.prepend(now);
    }
    now.setAttribute("x", position);
  };
  const step = (token, key) => {
    const tokens = all(".t", token.closest(".heat"));
    const isRightToLeft = getComputedStyle(token.closest(".heat")).direction === "rtl";
    const ahead = isRightToLeft ? "ArrowLeft" : "ArrowRight";
    const here = tokens.indexOf(token);
    const next = { Home: 0, End: tokens.length - 1 }[key] ?? here + (key === ahead ? 1 : -1);
    if (!tokens[next]) return;
    token.tabIndex = -1;
    tokens[next].tabIndex = 0;
    tokens[next].focus();
  };

  // Listeners are added once the page is whole: before that, elements may be missing

  document.addEventListener("DOMContentLoaded", () => {
    document.addEventListener("click", (event) => {
      const near = (selector) => event.target.closest(selector);
      if (near(".copy")) copy(near(".copy"));
      else if (near(".sort")) sort(near("th"));
      else if (near(".t")) inspect(near(".t"));
      else if (near(".cases .row") && !String(getSelection())) {
        event.preventDefault();
        toggle(near(".row"));
      }
    });
    document.addEventListener("keydown", (event) => {
      const token = event.target.closest(".t");
      const isStep = ["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key);
      if (token && isStep) {
        event.preventDefault();
        step(token, event.key);
      } else if (event.key === " " && event.target.matches(".cases .row a")) {
        event.preventDefault();
        toggle(event.target);
      }
    });
    for (const heard of ["pointerover", "focusin"]) {
      document.addEventListener(heard, (event) => {
        const token = event.target.closest(".t");
        if (token) inspect(token);
      });
    }
    document.addEventListener("toggle", (event) => follow(event.target), true);
    document.addEventListener("input", (event) => {
      const box = event.target.closest(".filters");
      if (box) filter(box);
    });
    addEventListener("hashchange", () => show(decodeURIComponent(location.hash.slice(1))));
    if (location.protocol === "about:") { // in a notebook's frame: a link would load the notebook
      document.addEventListener("click", (event) => {
        const link = event.target.closest("a[href^='#']");
        if (!link || event.defaultPrevented) return;
        event.preventDefault();
        const id = link.getAttribute("href").slice(1);
        document.getElementById(id).scrollIntoView();
        show(id);
      });
    }

    for (const header of all(".cases th[data-sort]")) {
      const button = made("button", "sort", header.textContent);
      button.type = "button";
      header.replaceChildren(button);
    }
    for (const link of all(".cases .row a")) {
      link.setAttribute("role", "button");
      link.setAttribute("aria-expanded", String(detailsOf(link).open));
    }
    all(".cases details[open]").forEach(follow);
    show(decodeURIComponent(location.hash.slice(1)));
  });
})();
