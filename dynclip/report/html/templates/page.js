"use strict";
// Fills the curves and the sample browser from the JSON in the page. Model output becomes text nodes only.
(() => {
  const embedded = (id) => {
    const element = document.getElementById(id);
    return element && JSON.parse(element.textContent);
  };

  const text = (tag, content, name) => {
    const element = document.createElement(tag);
    element.textContent = content;
    if (name) element.className = name;
    return element;
  };

  // Curves

  const shown = (value) => (value === null ? "missing" : String(Number(value.toPrecision(4))));

  // The rows of Vega's data set: one for each point of each line.
  function rowsOf(world, view, methods, seeds) {
    const ys = world.columns[view.y] || {};
    const xs = view.x ? world.columns[view.x] || {} : null;
    const rows = [];
    for (const method of methods) {
      const curves = ys[method] || {};
      const everySeed = Object.keys(curves).filter((name) => !["mean", "low", "high"].includes(name));
      const lines = seeds === "all" ? everySeed : [seeds];
      for (const line of lines) {
        if (!curves[line] || (xs && !(xs[method] && xs[method][line]))) continue;
        const band = line === "mean" && !xs && everySeed.length > 1;
        curves[line].forEach((y, i) => {
          const x = xs ? xs[method][line][i] : world.steps[i];
          if (y === null || x === null) return;
          const interval = band ? ` [${shown(curves.low[i])}, ${shown(curves.high[i])}]` : "";
          const seed = line === "mean" ? `mean of ${everySeed.length}` : line;
          const row = { x, y, method, seed, name: `${method} ${line}`, step: world.steps[i] };
          row.value = (xs ? `${shown(y)} at ${shown(x)}` : shown(y)) + interval;
          if (band) Object.assign(row, { low: curves.low[i], high: curves.high[i] });
          rows.push(row);
        });
      }
    }
    return rows;
  }

  function specOf(data, view, dark) {
    const spec = structuredClone(data.spec);
    for (const layer of spec.layer) {
      if (!layer.encoding.x) continue; // the rule at half of the start
      layer.encoding.x.title = view.xTitle;
      layer.encoding.y.title = view.yTitle;
      layer.encoding.y.scale = { zero: view.zero, nice: true };
      const colours = layer.encoding.color.scale.range;
      if (dark) layer.encoding.color.scale.range = colours.map((colour) => (colour === "#000000" ? "#ffffff" : colour));
    }
    return spec;
  }

  async function drawCurves() {
    const data = embedded("curves-data");
    const figure = document.querySelector("figure.curves");
    if (!data || !figure || typeof vegaEmbed === "undefined") return;
    const form = figure.querySelector("form");
    const charts = [...figure.querySelectorAll(".chart")];
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const screen = window.matchMedia("screen");
    let views = [];

    async function draw() {
      const view = data.views[Number(form.elements.view.value)];
      const methods = [...form.querySelectorAll("input:checked")].map((box) => box.value);
      const spec = specOf(data, view, dark.matches && screen.matches);
      form.querySelectorAll("line").forEach((line, i) => {
        const colour = data.methods[i].colour;
        line.setAttribute("stroke", colour === "#000000" ? "currentColor" : colour);
      });
      views.forEach((made) => made && made.finalize());
      views = await Promise.all(
        charts.map(async (element, i) => {
          const rows = rowsOf(data.worlds[i], view, methods, form.elements.seeds.value);
          if (!rows.length) {
            element.replaceChildren(text("p", "not recorded, or no method chosen", "soft"));
            return null;
          }
          const half = view.label === "entropy" ? [{ half: data.worlds[i].half }] : [];
          const empty = [rows.some((row) => "low" in row) ? "" : "area", half.length ? "" : "rule"];
          const layer = spec.layer.filter((each) => !empty.includes(each.mark.type));
          const full = { ...spec, layer, datasets: { curves: rows, half } };
          // An interpreter of expressions instead of new code, which the page's security policy forbids.
          const made = await vegaEmbed(element, full, { ast: true, actions: false, renderer: "svg" });
          element.setAttribute("role", "img");
          element.setAttribute("aria-label", `${view.label} in ${data.worlds[i].name}; the tables have the numbers`);
          element.querySelector("svg").setAttribute("aria-hidden", "true");
          return made;
        })
      );
    }

    // The container needs its width before Vega measures it.
    figure.querySelector(".charts").hidden = false;
    try {
      await draw();
    } catch (error) {
      figure.querySelector(".charts").hidden = true;
      throw error; // the static picture stays
    }
    form.hidden = false;
    figure.querySelector("img.static").hidden = true;
    form.addEventListener("change", draw);
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const media of [dark, screen]) media.addEventListener("change", draw);
  }

  // Samples

  const PAGE = 20;

  function sampleElement(row, problem) {
    const element = text("div", "", row.right ? "sample" : "sample no");
    element.append(text("div", `${row.verdict} · ${row.method} · ${row.id} · ${row.facts}`, "soft"));
    if (problem) element.append(text("pre", problem.problem));
    element.append(text("pre", `→ ${row.text}`));
    if (problem) element.append(text("p", `expected ${problem.answer}`, "note"));
    return element;
  }

  function browseSamples() {
    const data = embedded("samples-data");
    if (!data) return;
    const form = document.querySelector("form.search");
    const list = document.querySelector(".samples");
    const more = document.querySelector("button.more");
    let found = [];
    let count = 0;

    function show(until) {
      for (; count < Math.min(until, found.length); count++) {
        const row = found[count];
        list.append(sampleElement(row, data.problems[row.id]));
      }
      more.hidden = count >= found.length;
      form.querySelector(".found").textContent = `${found.length} of ${data.rows.length}`;
    }

    function search() {
      const words = form.elements.words.value.toLowerCase();
      const chosen = ["verdict", "method", "benchmark"].map((name) => [name, form.elements[name].value]);
      found = data.rows.filter((row) => {
        const problem = data.problems[row.id] || { problem: "", answer: "" };
        const all = `${row.id}\n${row.text}\n${problem.problem}\n${problem.answer}`.toLowerCase();
        return chosen.every(([name, value]) => !value || row[name] === value) && all.includes(words);
      });
      list.replaceChildren();
      count = 0;
      show(PAGE);
    }

    form.hidden = false;
    form.addEventListener("input", search);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => show(count + PAGE));
    search();
  }

  // On paper everything is open.
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  browseSamples();
  drawCurves();
})();
