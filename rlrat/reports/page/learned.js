// Learned activations: a panel for each layer, and a slider over training.

// P(x) / Q(x); the forms of Q are those of rlrat.rational: A 1 + sum |b_i x^i|, B 1 + |sum|, C 0.1 + |sum|, N 1 + sum.
const rational = (version, numerator, denominator) => {
  const sum = (coefficients, x) => coefficients.reduceRight((value, c) => value * x + c, 0);
  const inner = version === "C" ? denominator : [0, ...denominator];
  const sizes = inner.map(Math.abs);
  const q = {
    A: (x) => 1 + sum(sizes, Math.abs(x)),
    B: (x) => 1 + Math.abs(sum(inner, x)),
    C: (x) => 0.1 + Math.abs(sum(inner, x)),
    N: (x) => 1 + sum(inner, x),
  }[version];
  return (x) => sum(numerator, x) / q(x);
};

const prelu = (slope) => (x) => (x > 0 ? x : slope * x);

// Of a class of the user's: values at equal steps from low to high, null where there is none.
const sampled = (low, high, values) => (x) => {
  const place = ((x - low) / (high - low)) * (values.length - 1);
  const step = Math.min(Math.max(Math.floor(place), 0), values.length - 2);
  const [left, right] = [values[step], values[step + 1]];
  return left === null || right === null ? NaN : left + (place - step) * (right - left);
};

const learned = (layer, numerator, denominator) => {
  if (layer.version === "prelu") return prelu(numerator[0]);
  if (layer.version.startsWith("custom:")) return sampled(layer.low, layer.high, denominator);
  return rational(layer.version, numerator, denominator);
};

if (data.learned.length) {
  const select = document.getElementById("learned-run");
  const slider = document.getElementById("learned-update");
  const output = document.getElementById("learned-output");
  const parent = document.getElementById("learned-panels");
  const points = 121;

  const run = () => data.learned[Number(select.value)];

  // All functions of a layer at all updates, once; their range keeps the vertical axis still while the slider moves.
  const prepare = (layer) => {
    if (layer.x) return;
    layer.x = Array.from({ length: points }, (_, i) => layer.low + ((layer.high - layer.low) * i) / (points - 1));
    layer.values = layer.numerator.map((lines, time) =>
      lines.map((numerator, line) => {
        const f = learned(layer, numerator, layer.denominator[time][line]);
        return layer.x.map(f).map((y) => (isFinite(y) ? y : null));
      }),
    );
    const all = layer.values.flat(2).filter((y) => y !== null).sort((a, b) => a - b);
    const cut = layer.version === "N" ? Math.floor(all.length / 50) : 0; // poles would flatten everything else
    const [low, high] = [all[cut], all[all.length - 1 - cut]];
    layer.range = [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
  };

  const draw = (layer) => {
    prepare(layer);
    const time = Number(slider.value);
    const look = data.labels[run().label];
    const width = (layer.high - layer.low) / layer.histogram[0].length;
    const histogram = {
      type: "bar",
      x: layer.histogram[0].map((_, bin) => layer.low + width * (bin + 0.5)),
      y: layer.histogram[time],
      width,
      marker: { color: themeColour("bars") },
      hoverinfo: "skip",
    };
    const lines = layer.values[time].map((y, line) => ({
      x: layer.x,
      y,
      yaxis: "y2",
      mode: "lines",
      line: { color: transparent(colourOf(look), layer.lines.length > 1 ? 0.75 : 1), width: layer.lines.length > 1 ? 1.5 : 2.5 },
      hovertemplate: `${plain(layer.lines[line])}<br>f(%{x:.3g}) = %{y:.3g}<extra></extra>`,
    }));
    const first = {
      x: layer.x,
      y: layer.values[0][0],
      yaxis: "y2",
      mode: "lines",
      line: { color: themeColour("text"), width: 1.2, dash: "dash" },
      hoverinfo: "skip",
    };
    const layout = layoutOf("x", "f(x)");
    layout.xaxis.range = [layer.low, layer.high];
    // What overlays another axis lies above it: the functions above the bars.
    const over = { overlaying: "y", side: "left", tickmode: "auto", showgrid: true };
    layout.yaxis2 = { ...layout.yaxis, ...over, range: layer.range };
    layout.yaxis = { range: [0, 4 * Math.max(...layer.histogram[time], 1e-9)], visible: false, fixedrange: true };
    return { traces: [histogram, first, ...lines], layout };
  };

  let panels = [];
  const update = () => {
    output.textContent = `update ${run().updates[Number(slider.value)].toLocaleString("en-US")}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    for (const { chart } of panels) redraw(chart);
  };

  const choose = () => {
    for (const { panel, chart } of panels) {
      removeChart(chart);
      panel.remove();
    }
    slider.max = String(run().updates.length - 1);
    slider.value = slider.max;
    const caption = (layer) => layer.shown && `Shown: ${layer.shown}.`;
    panels = run().layers.map((layer) => addPanel(parent, layer.name, caption(layer), () => draw(layer)));
    update();
  };

  let waiting = false;
  slider.addEventListener("input", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      update();
    });
  });
  select.addEventListener("change", choose);
  choose();
}
