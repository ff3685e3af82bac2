"use strict";
const cards = [...document.querySelectorAll("#videos li")];
document.getElementById("find").addEventListener("input", (event) => {
  const sought = event.target.value.trim().toLowerCase();
  for (const card of cards) card.hidden = !card.querySelector("span").textContent.toLowerCase().includes(sought);
});
