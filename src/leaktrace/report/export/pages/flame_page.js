"use strict";
/* The page that is a flame graph and nothing else. */
{
  const page = data();
  document.getElementById("title").textContent = page.title;
  document.getElementById("about").append(...page.about.map((line) => element("p", { class: "dim" }, line)));
  setUpTheme(document.getElementById("theme"), () => {});
  if (page.parts.length) {
    const view = new FlameView(document.getElementById("flame"), page.parts, new CallTree(page.tree), page.chosen);
    document.addEventListener("keydown", (event) => view.pageKey(event));
  } else document.getElementById("flame").append(element("p", { class: "dim" }, "There was no report."));
}
