"use strict";
// Draw similarities as heatmaps that answer: hover, arrow keys and click read a pair of layers.
const gallery = (() => {
  const results = {};
  const twins = {};  // result -> the same models trained and untrained, and the range of both, set by the page
  const byId = (id) => document.getElementById(id);
  let cell = [0, 0], drawn = { names: [], shown: [] }, turn = 0;

  function add(name, result) {
    results[name] = result;
  }

  const asked = {};  // result -> promise that its script has run

  // A page that is opened from disk may not fetch: data come by a script, when they are first needed.
  function load(name) {
    asked[name] ??= new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = `data/${encodeURIComponent(name)}.js`;
      script.addEventListener("load", done);
      script.addEventListener("error", () => { delete asked[name]; fail(new Error(`${script.src} cannot be read`)); });
      document.head.append(script);
    });
    return asked[name];
  }

  const alike = (a, b) => String(a.rows) === String(b.rows) && String(a.columns) === String(b.columns);
  const text = (value) => (value === null ? "missing" : value.toFixed(3));
  const size = (result, side, k) => (result.sizes[side] ? ` (${result.sizes[side][k]})` : "");

  function describe(result, i, j) {
    const parts = [`${result.rows[i]}${size(result, 0, i)} with ${result.columns[j]}${size(result, 1, j)}: ${text(result.values[i][j])}`];
    if (result.stderr && result.stderr[i][j] !== null) parts.push(`± ${text(result.stderr[i][j])}`);
    if (result.p && result.p[i][j] !== null) parts.push(`p = ${text(result.p[i][j])}`);
    return parts.join(" ");
  }

  const labelOf = (name) => [...byId("first").options].find((option) => option.value === name).text;

  // What is drawn: one result, two side by side, or the second less the first.
  function chosen() {
    const first = byId("first").value;
    const second = byId("second") ? byId("second").value : "";
    const both = second ? [results[first], results[second]] : [results[first]];
    const box = byId("difference");
    if (box) {
      box.disabled = !(second && alike(...both));
      if (box.disabled) box.checked = false;
      if (box.checked) return { names: [`${labelOf(second)} less ${labelOf(first)}`], shown: [difference(...both)], diverging: true };
    }
    return { names: (second ? [first, second] : [first]).map(labelOf), shown: both, diverging: false };
  }

  function difference(a, b) {
    const less = (x, y) => (x === null || y === null ? null : y - x);
    const values = a.values.map((row, i) => row.map((value, j) => less(value, b.values[i][j])));
    return { ...b, values, stderr: null, p: null, measure: `difference of ${b.measure}` };
  }

  const quiet = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendChartToCloud"] };  // sends nothing to anybody
  const colours = {};  // colour scales, set by the page

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function look() {
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: 12 } };
  }

  // Break a label into lines that a plot of some pixels has room for.
  function wrapped(label, pixels) {
    const lines = [""], most = pixels / 6.5;
    for (const word of label.split(" ")) {
      if ((lines.at(-1) + word).length > most && lines.at(-1)) lines.push("");
      lines[lines.length - 1] += `${word} `;
    }
    return lines;
  }

  // Pixels of the cells: square ones, unless the matrix is a strip that could not be read.
  function sizes(result, room) {
    const rows = result.rows.length, columns = result.columns.length;
    const cell = Math.min((room - 140) / columns, 480 / rows);
    return [Math.max(cell * columns, 120), Math.max(cell * rows, 120)];
  }

  function range(shown, diverging, also) {
    const values = [...also, ...shown.flatMap((result) => result.values.flat())].filter((value) => value !== null);
    const least = Math.min(...values), most = Math.max(...values);
    const end = Math.max(Math.abs(least), Math.abs(most)) || 1;
    return diverging ? [-end, end] : [Math.min(0, least), Math.max(1, most)];
  }

  async function draw() {
    followStates();
    byId("large")?.remove();
    const place = byId("heatmaps"), mine = (turn += 1);
    place.setAttribute("aria-busy", "true");
    try {
      await Promise.all(["first", "second"].map((id) => byId(id)?.value).filter(Boolean).map(load));
    } catch (error) {
      byId("readout").textContent = error.message;
      place.setAttribute("aria-busy", "false");
      return;
    }
    if (mine !== turn) return;  // something else was chosen meanwhile
    drawn = chosen();
    const { names, shown, diverging } = drawn;
    place.replaceChildren();
    const twin = twins[byId("first").value];
    const [zmin, zmax] = range(shown, diverging, twin && !diverging ? twin.range : []);  // one scale for trained and untrained
    // All boxes first: a plot takes the width that its box has when it is drawn.
    const boxes = shown.map(() => place.appendChild(document.createElement("div")));
    shown.forEach((result, k) => {
      const box = boxes[k];
      box.className = "heatmap";
      box.tabIndex = 0;
      box.setAttribute("role", "application");
      box.setAttribute("aria-label", `${names[k]}: ${result.caption} Arrow keys move, Enter reads row and column.`);
      const hover = result.values.map((row, i) => row.map((_, j) => describe(result, i, j).replace(" with ", "<br>with ").replace(": ", "<br>")));
      const trace = { type: "heatmap", z: result.values, text: hover, hovertemplate: "%{text}<extra></extra>", zmin, zmax,
        colorscale: diverging ? colours.diverging : colours.sequential, colorbar: { title: { text: result.measure, side: "right" }, thickness: 12 } };
      const axis = (layers, title) => ({ title: { text: title }, showticklabels: false, ticks: "", range: [-0.5, layers.length - 0.5] });
      const [wide, high] = sizes(result, box.clientWidth), lines = wrapped(names[k], wide + 100);
      Plotly.newPlot(box, [trace], { ...look(), width: wide + 140, height: high + 80 + 16 * lines.length, margin: { l: 30, r: 110, t: 40 + 16 * lines.length, b: 40 },
        title: { text: lines.join("<br>"), font: { size: 12 }, x: 0.02 },
        xaxis: axis(result.columns, `layers of ${result.models[1] || "the model"}`),
        yaxis: axis(result.rows, `layers of ${result.models[0] || "the model"}`) },
        { ...quiet, responsive: false, toImageButtonOptions: { format: "svg", filename: names[k] } });
      box.on("plotly_hover", (event) => show(event.points[0].pointIndex));
      box.on("plotly_click", (event) => { show(event.points[0].pointIndex); read(); });
      box.addEventListener("keydown", (event) => move(event, result));
    });
    byId("caption").textContent = shown.map((result) => result.caption).join(" ");
    byId("csv").href = `files/${encodeURIComponent(byId("first").value)}.csv`;
    cell = [0, 0];
    byId("readout").textContent = "";
    byId("matches").replaceChildren();
    Plotly.purge(byId("curves"));
    byId("curves").replaceChildren();
    place.setAttribute("aria-busy", "false");
  }

  // Mark a pair of layers in all heatmaps that are shown, and read it out.
  function show([i, j]) {
    cell = [i, j];
    const { names, shown } = drawn;
    document.querySelectorAll(".heatmap").forEach((box, k) => {
      const result = shown[k];
      if (i >= result.rows.length || j >= result.columns.length) return;
      const line = { type: "rect", x0: j - 0.5, x1: j + 0.5, y0: i - 0.5, y1: i + 0.5, line: { color: "#18c3c3", width: 2 } };
      Plotly.relayout(box, { shapes: [line] });
    });
    const there = shown.filter((result) => i < result.rows.length && j < result.columns.length);
    byId("readout").textContent = there.map((result, k) => (shown.length > 1 ? `${names[k]}: ` : "") + describe(result, i, j)).join(" | ");
  }

  const STEPS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function move(event, result) {
    if (event.key === "Enter") { read(); event.preventDefault(); return; }
    const step = STEPS[event.key];
    if (!step) return;
    const stay = (value, count) => Math.max(0, Math.min(count - 1, value));
    show([stay(cell[0] + step[0], result.rows.length), stay(cell[1] + step[1], result.columns.length)]);
    event.preventDefault();
  }

  // Draw the row and the column of the chosen pair as curves, and list the best matches of both layers.
  function read() {
    const { shown } = drawn;
    const [i, j] = cell, result = shown[0];
    const row = result.values[i], column = result.values.map((line) => line[j]);
    const depth = (values) => values.map((_, k) => (values.length > 1 ? k / (values.length - 1) : 0));
    const curve = (values, layers, name, error) => ({ x: depth(values), y: values, text: layers, name, mode: "lines+markers", marker: { size: 4 },
      error_y: error ? { type: "data", array: error, thickness: 1, width: 0 } : undefined, hovertemplate: "%{text}: %{y:.3f}<extra></extra>" });
    const lines = { gridcolor: colour("--line"), zerolinecolor: colour("--line") };
    const errors = result.stderr ? [result.stderr[i], result.stderr.map((line) => line[j])] : [null, null];
    Plotly.react(byId("curves"), [curve(row, result.columns, `row: ${result.rows[i]}`, errors[0]), curve(column, result.rows, `column: ${result.columns[j]}`, errors[1])],
      { ...look(), height: 300, margin: { l: 50, r: 10, t: 10, b: 40 }, legend: { orientation: "h", y: 1.15 }, xaxis: { ...lines, title: { text: "relative depth (0: first layer, 1: last)" } }, yaxis: { ...lines, title: { text: result.measure } } },
      quiet);
    const best = (values, layers) => values.map((value, k) => [value, layers[k]]).filter(([value]) => value !== null).sort((a, b) => b[0] - a[0]).slice(0, 5);
    const list = (title, found) => {
      const box = document.createElement("div"), heading = document.createElement("h3"), items = document.createElement("ol");
      heading.textContent = title;
      for (const [value, layer] of found) {
        const item = document.createElement("li");
        item.textContent = `${layer}: ${text(value)}`;
        items.append(item);
      }
      box.append(heading, items);
      return box;
    };
    byId("matches").replaceChildren(list(`Most like ${result.rows[i]}`, best(row, result.columns)), list(`Most like ${result.columns[j]}`, best(column, result.rows)));
  }

  // Trained, untrained and their difference are choices of the lists in one step.
  function choose(state) {
    const { trained, untrained } = twins[byId("first").value];
    byId("first").value = state === "difference" ? untrained : state === "trained" ? trained : untrained;
    byId("second").value = state === "difference" ? trained : "";
    byId("difference").disabled = state !== "difference";
    byId("difference").checked = state === "difference";
    draw();
  }

  function followStates() {
    const box = byId("states");
    if (!box) return;
    const first = byId("first").value, second = byId("second").value, twin = twins[first];
    box.hidden = !twin;
    const state = !twin ? "" : second === "" ? (first === twin.trained ? "trained" : "untrained")
      : byId("difference").checked && first === twin.untrained && second === twin.trained ? "difference" : "";
    for (const radio of box.querySelectorAll("input")) radio.checked = radio.value === state;
  }

  function start() {
    for (const radio of document.querySelectorAll("#states input")) radio.addEventListener("change", () => choose(radio.value));
    for (const id of ["first", "second", "difference"]) if (byId(id)) byId(id).addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    if (byId("large")) byId("large").addEventListener("click", draw);
    else draw();
  }

  return { add, colours, twins, start };
})();
