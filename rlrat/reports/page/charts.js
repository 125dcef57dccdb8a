"use strict";
// What the curves and the learned activations share: data, colours, and charts that are drawn when they come into sight.

const data = JSON.parse(document.getElementById("data").textContent);

// Names that a user gave: Plotly reads tags in its texts.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const format = (value) => {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return value.toLocaleString("en-US", { maximumFractionDigits: size < 10 ? 3 : size < 1000 ? 1 : 0 });
};

const themeColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A label without a colour of its own has the text's, which is dark on light and light on dark.
const colourOf = (look) => look.colour || themeColour("text");

const transparent = (hex, share) => {
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${parts.join(", ")}, ${share})`;
};

// A reader's zoom is kept as long as the axes stay what they are.
const layoutOf = (xTitle, yTitle) => {
  const axis = (title) => ({
    title: { text: title, standoff: 8 },
    gridcolor: themeColour("grid"),
    zerolinecolor: themeColour("line"),
    linecolor: themeColour("line"),
    automargin: true,
  });
  return {
    margin: { l: 8, r: 22, t: 28, b: 8 }, // above, the buttons; on the right, half of the last tick's label
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: themeColour("text") },
    hoverlabel: {
      bgcolor: themeColour("background"),
      bordercolor: themeColour("line"),
      font: { color: themeColour("text") },
      align: "left",
      namelength: -1,
    },
    hovermode: "closest",
    uirevision: `${xTitle}, ${yTitle}`,
    modebar: { bgcolor: "rgba(0, 0, 0, 0)", color: themeColour("line"), activecolor: themeColour("accent") },
    showlegend: false,
    xaxis: axis(xTitle),
    yaxis: axis(yTitle),
  };
};

const settings = {
  plotlyServerURL: "", // nothing leaves this page: Plotly would offer to upload a chart
  showSendToCloud: false,
  displaylogo: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg" },
};

// Charts by their element: how to draw each, and whether what it shows is out of date.
const charts = new Map();

const drawIfSeen = (element) => {
  const chart = charts.get(element);
  if (!chart.stale || !chart.seen || element.closest("[hidden]")) return;
  chart.stale = false;
  const { traces, layout } = chart.draw();
  // Plotly's own sizing comes too late for paper.
  const size = { width: element.clientWidth, height: element.clientHeight };
  Plotly.react(element, traces, { ...layout, ...size }, settings);
};

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!charts.has(target)) continue; // removed since
      charts.get(target).seen = isIntersecting;
      drawIfSeen(target);
    }
  },
  { rootMargin: "400px" },
);

// Panels that come or go change the width of the others.
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.layout && target.clientWidth !== target.layout.width) redraw(target);
});

const addChart = (element, draw) => {
  charts.set(element, { draw, stale: true, seen: false });
  sight.observe(element);
  widths.observe(element);
};

const removeChart = (element) => {
  sight.unobserve(element);
  widths.unobserve(element);
  charts.delete(element);
  Plotly.purge(element);
};

const redraw = (element) => {
  charts.get(element).stale = true;
  drawIfSeen(element);
};

// A panel with a heading, a chart and a line of small print, if there is any.
const addPanel = (parent, title, caption, draw) => {
  const panel = document.createElement("section");
  panel.className = "panel";
  const heading = document.createElement("h3");
  heading.textContent = title;
  const chart = document.createElement("div");
  chart.className = "chart";
  chart.setAttribute("role", "group");
  chart.setAttribute("aria-label", title);
  const print = document.createElement("p");
  print.className = "caption";
  print.textContent = caption;
  print.hidden = !caption;
  panel.append(heading, chart, print);
  parent.append(panel);
  addChart(chart, draw);
  return { panel, chart, caption: print };
};

const redrawAll = () => charts.forEach((_, element) => redraw(element));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
matchMedia("print").addEventListener("change", (query) => {
  for (const chart of charts.values()) chart.seen ||= query.matches; // paper shows what no screen has shown yet
  redrawAll();
});
