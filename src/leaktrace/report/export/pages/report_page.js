"use strict";
/* The page of a recording: chart, table and flame graph work on the same data. */
{
  const page = data();
  const tree = new CallTree(page.tree);
  const theme = document.getElementById("theme");
  theme.classList.remove("hidden");
  setUpTheme(theme, () => {});
  const table = new SiteTable(document.getElementById("sites"), page, tree);
  if (page.chart.time.length > 1) {
    document.getElementById("chart-panel").classList.remove("hidden");
    new Chart(document.getElementById("chart"), page, (span) => table.setSpan(span));
  }
  const panel = document.getElementById("flame-panel");
  panel.classList.remove("hidden");
  // Drawn when it comes into view: with many sites it takes longer than all else.
  let view = null;
  const draw = () => {
    if (view === null) view = new FlameView(document.getElementById("flame"), page.parts, tree, page.chosen);
    return view;
  };
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw();
  }, { rootMargin: "300px" }).observe(panel);
  window.addEventListener("beforeprint", draw);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) draw();
    if (view !== null) view.pageKey(event);
  });
}
