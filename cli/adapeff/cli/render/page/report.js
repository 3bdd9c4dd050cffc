"use strict";
// Open the runs that a link leads to: of a group the first.
const openTarget = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.closest("section.grid[hidden]")) { filter.value = ""; applyFilter(); }
  const run = target.matches("section.group") ? target.querySelector("details.run") : target;
  if (run && run.matches("details")) run.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
};
addEventListener("hashchange", openTarget);
openTarget();
