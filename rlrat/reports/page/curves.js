// Learning curves: a panel for each task, and the controls that say what is in them.
{
  const controls = document.getElementById("controls");
  const ticked = (name) =>
    new Set([...controls.querySelectorAll(`input[name="${name}"]:checked`)].map((input) => input.value));

  const state = () => ({
    labels: ticked("label"),
    agents: ticked("agent"),
    datasets: ticked("dataset"),
    x: controls.elements.x.value,
    y: controls.elements.y.value,
    seeds: controls.elements.seeds.checked,
  });

  // What is drawn of a group: evaluations, or one of the metrics.
  const metric = (now) => (now.y.startsWith("metric:") ? now.y.slice("metric:".length) : null);
  const curveOf = (group, now) => (metric(now) === null ? group.curves[now.y] : group.metrics[metric(now)]?.curve);
  const runsOf = (group, now) =>
    metric(now) === null
      ? group.runs.filter((run) => run[now.y]).map((run) => ({ ...run, values: run[now.y] }))
      : group.metrics[metric(now)].runs;
  const levelOf = (task, now) => task.data[now.y] ?? null;

  // Aggregates belong to no agent and no dataset: they are shown with any.
  const within = (names, wanted) => !names.length || names.some((name) => wanted.has(name));

  const shown = (task, now) =>
    task.groups.filter(
      (group) =>
        now.labels.has(data.labels[group.label].name) &&
        within(group.agents, now.agents) &&
        within(group.datasets, now.datasets) &&
        curveOf(group, now),
    );

  const xOf = (curve, now) => (now.x === "seconds" ? curve.seconds : data.updates[curve.updates]);
  const xTitles = { updates: "updates", seconds: "training seconds" };
  const yTitles = { score: "normalised score", return: "return", success: "success rate", value: "estimated value (FQE)" };
  const yTitle = (now) => metric(now) ?? yTitles[now.y];

  // What each seed has at every update of the mean, as lines of a hover text.
  const seedTexts = (group, curve, now) => {
    const runs = runsOf(group, now);
    const places = runs.map((run) => new Map(data.updates[run.updates].map((update, at) => [update, at])));
    return data.updates[curve.updates].map((update) => {
      const found = runs.flatMap((run, index) => {
        const at = places[index].get(update);
        return at === undefined || run.values[at] === null ? [] : [`seed ${run.seed}: ${format(run.values[at])}`];
      });
      const more = found.length > 12 ? `<br>and ${found.length - 12} more` : "";
      return found.slice(0, 12).join("<br>") + more;
    });
  };

  const bandOf = (curve, x, look) => {
    const known = x.map((_, at) => at).filter((at) => curve.low[at] !== null && x[at] !== null);
    const back = [...known].reverse();
    return {
      x: [...known, ...back].map((at) => x[at]),
      y: [...known.map((at) => curve.high[at]), ...back.map((at) => curve.low[at])],
      mode: "lines",
      line: { width: 0 },
      fill: "toself",
      fillcolor: transparent(colourOf(look), 0.2),
      hoverinfo: "skip",
    };
  };

  const seedsOf = (group, look, now) => {
    const trace = { x: [], y: [], text: [], mode: "lines", line: { color: transparent(colourOf(look), 0.55), width: 1 } };
    for (const run of runsOf(group, now)) {
      trace.x.push(...(now.x === "seconds" ? run.seconds : data.updates[run.updates]), null);
      trace.y.push(...run.values, null);
      const name = `${plain(look.name)}, seed ${run.seed}${run.status === "finished" ? "" : ` (${plain(run.status)})`}`;
      trace.text.push(...run.values.map((value) => (value === null ? "" : `${name}: ${format(value)}`)), "");
    }
    return { ...trace, hovertemplate: `%{text}<br>${xTitles[now.x]} %{x:,}<extra></extra>` };
  };

  const fewer = (curve) => Math.min(...curve.seeds) < Math.max(...curve.seeds);

  // The mean of all seeds and, as a faint line, that of fewer, where others have ended.
  const meansOf = (group, curve, x, look, now) => {
    const seeds = seedTexts(group, curve, now);
    const most = Math.max(...curve.seeds);
    const text = curve.mean.map((mean, at) => {
      if (mean === null) return "";
      const band = curve.low[at] === null ? "" : ` (${format(curve.low[at])} to ${format(curve.high[at])})`;
      const left = curve.seeds[at] < most ? `mean of ${curve.seeds[at]} of ${most} seeds<br>` : "";
      return `<b>${plain(look.name)}: ${format(mean)}</b>${band}<br>${left}${seeds[at]}`;
    });
    const trace = (color, width, shown) => ({
      x,
      y: curve.mean.map((mean, at) => (shown(at) ? mean : null)),
      text,
      mode: x.length > 1 ? "lines" : "markers",
      line: { color, width, dash: look.dash },
      hovertemplate: `%{text}<br>${xTitles[now.x]} %{x:,}<extra></extra>`,
    });
    const whole = (at) => curve.seeds[at] === most;
    const mean = { ...trace(colourOf(look), 2.5, whole), name: plain(look.name) };
    if (!fewer(curve)) return [mean];
    // Its neighbours too, so that the two lines meet.
    const near = (at) => [at - 1, at, at + 1].some((place) => place in x && !whole(place));
    return [trace(transparent(colourOf(look), 0.5), 1.2, near), mean];
  };

  const draw = (task) => {
    const now = state();
    const layers = { bands: [], seeds: [], means: [] };
    for (const group of shown(task, now)) {
      const curve = curveOf(group, now);
      const look = data.labels[group.label];
      const x = xOf(curve, now);
      layers.bands.push(bandOf(curve, x, look));
      if (now.seeds) layers.seeds.push(seedsOf(group, look, now));
      layers.means.push(...meansOf(group, curve, x, look, now));
    }
    const layout = layoutOf(xTitles[now.x], plain(yTitle(now)));
    const level = levelOf(task, now);
    if (level !== null) {
      const line = { color: themeColour("quiet"), width: 1, dash: "dot" };
      layout.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, line, layer: "below" }];
    }
    return { traces: [...layers.bands, ...layers.seeds, ...layers.means], layout };
  };

  const panels = data.tasks.map((task) => ({
    task,
    ...addPanel(document.getElementById("panels"), task.name, "", () => draw(task)),
  }));

  const update = () => {
    const now = state();
    let any = false;
    for (const { task, panel, chart, caption } of panels) {
      const groups = shown(task, now);
      panel.hidden = !groups.length;
      any ||= groups.length > 0;
      const remarks = [];
      if (now.x === "seconds" && task.seconds) remarks.push(task.seconds);
      if (levelOf(task, now) !== null) {
        remarks.push(now.y === "value" ? "Dotted: the data's own value." : "Dotted: the mean episode of the data.");
      }
      if (groups.some((group) => fewer(curveOf(group, now)))) remarks.push("Faint: the mean of fewer seeds.");
      const thinned = metric(now) === null ? task.thinned : task.thinned_metrics;
      if (thinned) remarks.push(thinned);
      caption.textContent = remarks.join(" ");
      caption.hidden = !remarks.length;
      const names = groups.map((group) => data.labels[group.label].name).join(", ");
      chart.setAttribute("aria-label", `${yTitle(now)} over ${xTitles[now.x]} on ${task.name}: ${names}`);
      redraw(chart);
    }
    document.getElementById("no-panels").hidden = any;
  };

  // What no run has cannot be chosen; the first that some have is.
  const measures = [...controls.querySelectorAll('input[name="y"]')].filter((input) => input.value in yTitles);
  for (const input of measures) {
    input.disabled = !data.tasks.some((task) => task.groups.some((group) => group.curves[input.value]));
  }
  const first = measures.find((input) => !input.disabled);
  if (first) first.checked = true;
  const timed = data.tasks.some((task) =>
    task.groups.some((group) => Object.values(group.curves).some((curve) => curve.seconds.some((s) => s !== null))),
  );
  controls.querySelector('input[value="seconds"]').disabled = !timed;

  controls.addEventListener("change", update);
  controls.addEventListener("submit", (event) => event.preventDefault());
  update();
}
