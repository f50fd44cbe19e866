// Draws the page anew every two seconds while it is looked at.
const main = document.getElementById("main");
const pulse = document.getElementById("pulse");
let shown = "";

async function refresh() {
  if (document.hidden || getSelection().toString()) return;
  try {
    const answer = await fetch("/console/main", { cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    if (text !== shown) {
      const places = [...main.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      main.innerHTML = shown = text;
      main.querySelectorAll(".scroll").forEach((box, i) => (box.scrollLeft = places[i] || 0));
    }
    pulse.textContent = "live";
    pulse.classList.remove("bad");
  } catch {
    pulse.textContent = "the server does not answer";
    pulse.classList.add("bad");
  }
}

setInterval(refresh, 2000);
document.addEventListener("visibilitychange", refresh);
