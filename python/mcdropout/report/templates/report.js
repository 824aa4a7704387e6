
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = document.getElementById("cards");
  const template = document.getElementById("card").content.firstElementChild;
  const fields = ["tier", "label", "truth", "right", "name"];
  const filters = fields.map((id) => document.getElementById(id)).filter(Boolean);
  let found = [];

  // What users named goes in as text alone, so that no label and no file name is ever read as markup.
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const percent = (share) => `${Math.min(Math.max(share, 0), 1) * 100}%`;

  function bar(one, truth) {
    const [label, text, mean, lower, upper] = one;
    const item = make("li", "");
    const name = make("span", label === truth ? "label true" : "label", data.names[label]);
    name.title = data.names[label];
    const track = make("span", "track");
    const fill = make("span", data.is_share ? "fillbar" : "dot");
    if (data.is_share) fill.style.width = percent(mean); else fill.style.left = percent(mean);
    const whisker = make("span", "whisker");
    whisker.style.left = percent(lower);
    whisker.style.width = percent(upper - lower);
    track.append(...(data.is_share ? [fill, whisker] : [whisker, fill]));
    item.append(name, track, make("span", "value", text));
    return item;
  }

  function card(row) {
    const item = template.cloneNode(true);
    const image = item.querySelector("img");
    if (row.image) {
      image.src = `data:image/${row.image}`;
      image.alt = row.name;
      if (data.small) image.className = "small";
    } else {
      item.querySelector(".picture").remove();
      item.classList.add("plain");
    }
    const head = item.querySelector("h3");
    head.textContent = row.head;
    if (row.tier !== null) head.append(make("span", row.tier === 0 ? "tag first" : "tag", data.tiers[row.tier]));
    if (row.wrong) head.append(make("span", "tag wrong", `wrong: true label ${data.names[row.truth]}`));
    item.querySelector(".name").textContent = `${row.place}. ${row.name}`;
    item.querySelector(".uncertainty").textContent = row.uncertainty;
    item.querySelector(".reason").textContent = row.reason;
    const bars = item.querySelector(".bars");
    row.bars.forEach((one) => bars.append(bar(one, row.truth)));
    if (data.is_share && bars.firstElementChild) bars.firstElementChild.className = "top";
    return item;
  }

  function more(wanted) {
    const start = cards.children.length;
    const next = found.slice(start, start + wanted).map(card);
    const all = document.createDocumentFragment();
    next.forEach((one) => all.append(one));
    cards.append(all);
    const shown = cards.children.length;
    const many = (n) => n.toLocaleString("en");
    const of = found.length === data.rows.length ? "" : ` that fit, of ${many(data.rows.length)}`;
    const rest = found.length - shown;
    const left = rest ? ` ${many(rest)} less uncertain ones are left out, here and on paper.` : "";
    document.getElementById("shown").textContent = `${many(shown)} shown of ${many(found.length)}${of}.${left}`;
    document.getElementById("more").hidden = shown === found.length;
  }

  const tests = {
    tier: (row, wanted) => row.tier === Number(wanted),
    label: (row, wanted) => row.predicted === Number(wanted),
    truth: (row, wanted) => row.truth === Number(wanted),
    right: (row, wanted) => row.wrong === (wanted === "wrong"),
    name: (row, wanted) => row.name.toLowerCase().includes(wanted.toLowerCase()),
  };
  function refresh() {
    const set = filters.filter((one) => one.value !== "");
    found = data.rows.filter((row) => set.every((one) => tests[one.id](row, one.value)));
    cards.replaceChildren();
    more(data.page);
  }

  filters.forEach((one) => one.addEventListener("input", refresh));
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filters").hidden = false;
  document.getElementById("next").addEventListener("click", () => more(data.page));
  document.getElementById("all").addEventListener("click", () => more(found.length));
  refresh();
})();
