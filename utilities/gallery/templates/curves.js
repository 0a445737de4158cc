"use strict";
// Draw curves over depth whose points can be read off: hover names the layer, the value and its error.
const curves = (() => {
  // seaborn's palette for colour-blind readers, as in the figures
  const COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"];

  function drawn(curve) {
    return { x: curve.x, y: curve.y, name: curve.name, text: curve.points, mode: "lines+markers", marker: { size: 5 }, line: { width: 1.5 },
      error_y: { type: "data", array: curve.errors, thickness: 1, width: 0 }, hovertemplate: "%{text}: %{y}<extra>%{fullData.name}</extra>" };
  }

  function draw(plots) {
    const place = document.getElementById("curves-over-depth");
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    place.replaceChildren();
    for (const plot of plots) {
      const box = document.createElement("div");
      box.className = "lines";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", `${plot.title} over relative depth: ${plot.curves.map((curve) => curve.name).join("; ")}`);
      place.append(box);
      Plotly.newPlot(box, plot.curves.map(drawn), { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
        margin: { l: 60, r: 10, t: 40, b: 45 }, legend: { orientation: "h", y: -0.28 }, title: { text: plot.title, font: { size: 13 } },
        colorway: COLOURS, xaxis: { zeroline: false, title: { text: "relative depth (0: first, 1: last)" } }, yaxis: { zeroline: false } }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendChartToCloud"] });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(plots), { once: true });
  }

  return { draw };
})();
