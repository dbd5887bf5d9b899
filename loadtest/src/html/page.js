"use strict";
// Reads the values under the pointer off each plot.
const digits = value => value === 0 ? "0" : Number(value.toPrecision(3)).toString();
const scaled = value => value >= 1e9 ? digits(value / 1e9) + " G" : value >= 1e6 ? digits(value / 1e6) + " M"
  : value >= 1e4 ? digits(value / 1e3) + " k" : digits(value);
const show = {
  "time": us => us < 1e3 ? digits(us) + "us" : us < 1e6 ? digits(us / 1e3) + "ms" : digits(us / 1e6) + "s",
  "per-second": value => scaled(value) + "/s",
  "bits": bytes => scaled(bytes * 8) + "b/s",
  "count": scaled,
  "ratio": value => digits(value * 100) + "%",
};
for (const chart of document.querySelectorAll("svg.chart")) {
  const { unit, left, right, interval, lines } = chart.dataset;
  const data = JSON.parse(lines);
  const last = Math.max(...data.map(line => line[1].length)) - 1;
  const cursor = chart.querySelector(".cursor");
  const readout = chart.parentElement.querySelector(".readout");
  chart.addEventListener("pointermove", event => {
    const box = chart.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
    const index = Math.round(share * last);
    const at = Number(left) + (last ? index / last : 0) * (right - left);
    cursor.setAttribute("transform", `translate(${at} 0)`);
    const values = data.map(([name, all]) =>
      name + "  " + (all[index] == null ? "-" : show[unit](all[index])));
    readout.textContent = [digits(index * interval) + "s", ...values].join("\n");
    readout.classList.toggle("left", share > 0.5);
    cursor.style.visibility = readout.style.visibility = "visible";
  });
  chart.addEventListener("pointerleave", () => {
    cursor.style.visibility = readout.style.visibility = "hidden";
  });
}
