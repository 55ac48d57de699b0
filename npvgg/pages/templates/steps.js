"use strict";
// Steps are shown one by one where there is a script, all at once where there is none.
for (const box of document.querySelectorAll(".steps")) {
  const steps = [...box.querySelectorAll(":scope > .step")];
  const bar = document.createElement("p");
  const back = document.createElement("button");
  const next = document.createElement("button");
  const where = document.createElement("span");
  let at = 0;
  bar.className = "stepper";
  back.textContent = "Back";
  next.textContent = "Next";
  where.setAttribute("aria-live", "polite");
  const show = (to) => {
    at = Math.max(0, Math.min(steps.length - 1, to));
    steps.forEach((step, i) => { step.hidden = i !== at; });
    where.textContent = `step ${at + 1} of ${steps.length}`;
    back.disabled = at === 0;
    next.disabled = at === steps.length - 1;
  };
  back.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  bar.append(back, next, where);
  box.prepend(bar);
  show(0);
}
