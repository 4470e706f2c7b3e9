// Looks and switches only: without it the page is whole.
(function () {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const say = () => {
    button.textContent = dark() ? "Light colours" : "Dark colours";
  };
  button.hidden = false;
  say();
  system.addEventListener("change", say);
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    say();
  });
  for (const b of document.querySelectorAll("button[data-only]")) {
    b.hidden = false;
    b.addEventListener("click", () => {
      const on = document.getElementById(b.dataset.only).classList.toggle("same-hidden");
      b.setAttribute("aria-pressed", String(on));
    });
  }
  for (const b of document.querySelectorAll("button[data-open]")) {
    b.hidden = false;
    b.addEventListener("click", () => {
      const all = [...document.querySelectorAll(b.dataset.open)];
      const open = !all.every((d) => d.open);
      for (const d of all) d.open = open;
      b.setAttribute("aria-expanded", String(open));
    });
  }
})();
