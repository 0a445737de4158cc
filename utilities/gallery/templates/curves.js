"use strict";
// Draw curves over depth whose points can be read off: hover names the layer, the value and its error.
const curves = (() => {
  // seaborn's palette for colour-blind readers, as in the figures
  const COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"];

  // A name broken into lines that the legend has room for on a phone.
  const broken = (name) => name.match(/.{1,42}(?:[ _]|$)|.{1,42}/g) ?? [""];

  // Pixels that the legend takes below a plot: all of its columns are as wide as the longest line.
  function legendHeight(curves, width) {
    const names = curves.map((curve) => broken(curve.name));
    const letters = Math.max(...names.flat().map((line) => line.length));
    const columns = Math.max(1, Math.floor(width / (6.5 * letters + 45)));
    return 19 * Math.max(...names.map((lines) => lines.length)) * Math.ceil(names.length / columns);
  }

  function drawn(curve, joined) {
    return { x: curve.x, y: curve.y, name: broken(curve.name).join("<br>"), text: curve.points, mode: joined ? "lines+markers" : "markers", marker: { size: 5 }, line: { width: 1.5 },
      error_y: { type: "data", array: curve.errors, thickness: 1, width: 0 }, hovertemplate: "%{text}: %{y}<extra>%{fullData.name}</extra>" };
  }

  function draw(plots) {
    const place = document.getElementById("curves-over-depth");
    const style = getComputedStyle(document.documentElement);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: line, zeroline: false };
    place.replaceChildren();
    for (const plot of plots) {
      const box = document.createElement("div");
      box.className = "lines";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", `${plot.title} over relative depth: ${plot.curves.map((curve) => curve.name).join("; ")}`);
      place.append(box);
      const legend = legendHeight(plot.curves, box.clientWidth - 70);
      box.style.height = `${360 + legend}px`;
      Plotly.newPlot(box, plot.curves.map((curve) => drawn(curve, plot.joined)), { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
        margin: { l: 60, r: 10, t: 40, b: 55 + legend }, legend: { orientation: "h", x: 0, y: 0, xref: "container", yref: "container", yanchor: "bottom" }, title: { text: plot.title, font: { size: 13 } },
        colorway: COLOURS, xaxis: { ...axis, title: { text: "relative depth (0: first, 1: last)" } }, yaxis: axis }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendChartToCloud"] });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(plots), { once: true });
  }

  return { draw };
})();
