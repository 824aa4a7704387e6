
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = document.getElementById("cards");
  const template = document.getElementById("card").content.firstElementChild;
  const fields = ["tier", "label", "truth", "right", "name"];
  const filters = fields.map((id) => document.getElementById(id)).filter(Boolean);
  let matching = [];

  // Text of users is inserted as text only, so no label and no file name is read as markup.
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const percent = (share) => `${Math.min(Math.max(share, 0), 1) * 100}%`;

  function bar(values, truth) {
    const [label, text, mean, lower, upper] = values;
    const item = make("li", "");
    const name = make("span", label === truth ? "label true" : "label", data.names[label]);
    name.title = data.names[label];
    const track = make("span", "track");
    const fill = make("span", data.is_share ? "fillbar" : "dot");
    if (data.is_share) fill.style.width = percent(mean); else fill.style.left = percent(mean);
    const parts = [fill];
    if (lower !== null && upper !== null) {  // a bound that is missing or infinite has no place
      const whisker = make("span", "whisker");
      whisker.style.left = percent(lower);
      whisker.style.width = percent(upper - lower);
      parts[data.is_share ? "push" : "unshift"](whisker);
    }
    track.append(...parts);
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
    row.bars.forEach((values) => bars.append(bar(values, row.truth)));
    if (data.is_share && bars.firstElementChild) bars.firstElementChild.className = "top";
    return item;
  }

  function showMore(count) {
    const start = cards.children.length;
    const fragment = document.createDocumentFragment();
    fragment.append(...matching.slice(start, start + count).map(card));
    cards.append(fragment);
    const shown = cards.children.length;
    const words = (n) => n.toLocaleString("en");
    const total = matching.length === data.rows.length ? "" : ` that match, of ${words(data.rows.length)}`;
    const hidden = matching.length - shown;
    const note = hidden ? ` ${words(hidden)} less uncertain ones are left out, here and on paper.` : "";
    document.getElementById("shown").textContent = `${words(shown)} shown of ${words(matching.length)}${total}.${note}`;
    document.getElementById("more").hidden = shown === matching.length;
  }

  const tests = {
    tier: (row, value) => row.tier === Number(value),
    label: (row, value) => row.predicted === Number(value),
    truth: (row, value) => row.truth === Number(value),
    right: (row, value) => row.wrong === (value === "wrong"),
    name: (row, value) => row.name.toLowerCase().includes(value.toLowerCase()),
  };
  function refresh() {
    const active = filters.filter((filter) => filter.value !== "");
    matching = data.rows.filter((row) => active.every((filter) => tests[filter.id](row, filter.value)));
    cards.replaceChildren();
    showMore(data.page);
  }

  filters.forEach((filter) => filter.addEventListener("input", refresh));
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filters").hidden = false;
  document.getElementById("next").addEventListener("click", () => showMore(data.page));
  document.getElementById("all").addEventListener("click", () => showMore(matching.length));
  refresh();
})();
