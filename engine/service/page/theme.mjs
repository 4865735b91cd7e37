/** Light or dark: what the system prefers, until somebody chooses. */

const KEPT = "voorwerp-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => localStorage.getItem(KEPT) ?? (dark.matches ? "dark" : "light");

function apply() {
  document.documentElement.dataset.theme = theme();
  const button = document.getElementById("theme-button");
  if (button) button.textContent = theme() === "dark" ? "Light" : "Dark";
}

apply();
dark.addEventListener("change", apply);
addEventListener("DOMContentLoaded", () => {
  apply();
  document.getElementById("theme-button").onclick = () => {
    localStorage.setItem(KEPT, theme() === "dark" ? "light" : "dark");
    apply();
  };
});
