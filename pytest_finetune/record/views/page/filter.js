/* The page is whole without this: it names what pytest-html leaves without a name, narrows the held-out rows and
   opens the row that a link leads to. */
document.documentElement.lang = "en";
document.querySelector(".summary")?.setAttribute("role", "main");
addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("input[data-test-result]"))
    box.setAttribute("aria-label", `show ${box.dataset.testResult}`);
  for (const list of document.querySelectorAll("#environment ul ul:empty")) list.remove();
});
for (const part of document.querySelectorAll(".ft-rows")) {
  const bar = part.querySelector(".ft-filter"), said = bar.querySelector("output");
  const [group, tag] = bar.querySelectorAll("select"), words = bar.querySelector("input");
  const groups = [...part.querySelectorAll(".ft-group")].map((box) => ({
    box, name: box.dataset.group, open: box.open,
    rows: [...box.querySelectorAll(".ft-row")].map((row) => ({
      row, tags: [...row.querySelectorAll(".ft-tag")].map((one) => one.textContent), text: null,
    })),
  }));
  const total = groups.reduce((sum, one) => sum + one.rows.length, 0);
  const narrow = () => {
    const wanted = words.value.trim().toLowerCase(), narrowed = group.value || tag.value || wanted;
    let shown = 0;
    for (const one of groups) {
      let here = 0;
      for (const entry of one.rows) {
        if (wanted) entry.text ??= entry.row.textContent.toLowerCase();
        const fits = (!group.value || group.value === one.name) && (!tag.value || entry.tags.includes(tag.value))
          && (!wanted || entry.text.includes(wanted));
        entry.row.hidden = !fits;
        here += fits;
      }
      one.box.hidden = !here;
      one.box.open = narrowed ? here > 0 : one.open;
      shown += here;
    }
    said.textContent = narrowed ? `${shown} of ${total} rows` : `${total} rows`;
  };
  bar.hidden = false;
  let waiting;
  bar.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(narrow, 120); });
  bar.addEventListener("reset", () => setTimeout(narrow));
  bar.addEventListener("submit", (event) => event.preventDefault());
  const lead = () => {
    const row = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || !part.contains(row) || !row.classList.contains("ft-row")) return;
    if (row.hidden) { bar.reset(); narrow(); }
    row.closest(".ft-group").open = true;
    row.scrollIntoView();
    row.focus({ preventScroll: true });
  };
  addEventListener("hashchange", lead);
  lead();
}
