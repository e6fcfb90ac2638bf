// How each figure is drawn: numbers and colours in, traces and layout out.
const figures = {
  map(columns, colour) {
    const by = document.querySelector("input[name=colour]:checked")?.value ?? "complexity";
    const largest = Math.max(1, ...columns.n_eligible), share = by === "share";
    return {
      traces: [{
        type: "scatter", mode: "markers", x: columns.x, y: columns.y, customdata: columns.concept, hoverinfo: "none",
        marker: {
          color: columns[by], colorscale: "Viridis", reversescale: false, opacity: .85, size: columns.n_eligible, sizemode: "area", sizemin: 4,
          sizeref: 2 * largest / (innerWidth < 640 ? 22 : 40) ** 2, line: {width: 1, color: colour("--page")}, showscale: true,
          colorbar: {title: {text: share ? "kept share" : "complexity", side: "right"}, thickness: 10, outlinewidth: 0, tickformat: share ? ".0%" : ".3~g"},
        },
      }],
      layout: {
        showlegend: false, hovermode: "closest", margin: {l: 8, r: 8, t: 8, b: 8},
        xaxis: {showticklabels: false, showgrid: false, range: padded(columns.x)},
        yaxis: {showticklabels: false, showgrid: false, range: padded(columns.y)},
      },
    };
  },
  histogram(columns, colour) {
    const name = document.getElementById("score-choice").value, {edges, kept, dropped, cuts} = columns[name];
    const bars = (title, values, fill) => ({
      type: "bar", name: title, x: values.map((_, bin) => (edges[bin] + edges[bin + 1]) / 2), width: edges[1] - edges[0], y: values,
      customdata: values.map((_, bin) => [edges[bin], edges[bin + 1]]),
      hovertemplate: `%{y:,} ${title}<br>%{customdata[0]:.4~g} to %{customdata[1]:.4~g}<extra></extra>`,
      marker: {color: fill, line: {width: .5, color: colour("--page")}},
    });
    return {
      traces: [bars("kept", kept, colour("--kept")), bars("dropped", dropped, colour("--dropped"))],
      layout: {
        barmode: "stack", bargap: 0, xaxis: {title: {text: escaped(name)}}, yaxis: {title: {text: "rows"}, tickformat: "~s"},
        shapes: cuts.map(([at]) => ({type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: {color: colour("--ink"), width: 1.5, dash: "dash"}})),
        annotations: cuts.map(([at]) => ({x: at, y: 1, yref: "paper", yanchor: "bottom", text: "cut", showarrow: false, font: {color: colour("--ink"), size: 12}})),
      },
    };
  },
  correlation({names, square}, colour) {
    const small = names.length > 12, shown = names.map(escaped);
    return {
      traces: [{
        type: "heatmap", x: shown, y: shown, z: square, zmin: -1, zmax: 1, colorscale: diverging(colour), xgap: 1, ygap: 1,
        texttemplate: small ? "" : "%{z:.2f}", hovertemplate: "%{y}<br>%{x}<br>%{z:.3f}<extra></extra>", hoverongaps: false,
        colorbar: {thickness: 10, outlinewidth: 0},
      }],
      layout: {
        showlegend: false, margin: {t: 8, l: 8, b: 8, r: 8},
        xaxis: {tickangle: -45, tickfont: {size: small ? 9 : 11}, showgrid: false, dtick: 1, type: "category"},
        yaxis: {autorange: "reversed", tickfont: {size: small ? 9 : 11}, showgrid: false, dtick: 1, type: "category"},
      },
    };
  },
  whatif(_, colour) {
    const {given, kept} = drawn.plan, some = [...kept.keys()].filter((i) => given.size[i] > 0);
    const every = Math.ceil(some.length / 2000), rows = some.filter((_, place) => place % every === 0);
    const sizes = rows.map((i) => given.size[i]), largest = Math.max(1, ...sizes);
    const marks = (name, values, fill, symbol) => ({
      type: "scatter", mode: "markers", name, x: rows.map((i) => given.complexity[i]), y: rows.map((i, place) => values[i] / sizes[place]),
      customdata: rows.map((i, place) => [escaped(nameOf(given.concept[i])), count.format(values[i]), count.format(sizes[place])]),
      hovertemplate: "concept %{customdata[0]}<br>%{customdata[1]} of %{customdata[2]} (%{y:.1%})<br>complexity %{x:.4f}<extra></extra>",
      marker: {symbol, color: fill, opacity: .6, size: sizes, sizemode: "area", sizemin: 3, sizeref: 2 * largest / 22 ** 2, line: {width: .8, color: colour("--page")}},
    });
    return {
      traces: [marks("now", given.now, colour("--muted"), "circle-open"), marks("at the sliders", kept, colour("--kept"), "circle")],
      layout: {
        xaxis: {title: {text: "complexity"}, rangemode: "tozero"},
        yaxis: {title: {text: "kept share of eligible"}, range: [-.05, 1.07], tickformat: ".0%"},
      },
    };
  },
  evaluation({metric, x, random, band, all, subsets}, colour) {
    const shapes = ["circle", "square", "diamond", "cross", "triangle-up", "star", "x"], ways = ["solid", "dash", "dashdot", "longdash"];
    const around = (sign) => random.map((value, place) => value + sign * band[place]);
    const line = (name, values, fill, more) => ({type: "scatter", mode: "lines+markers", name: escaped(name), x, y: values, line: {color: fill, width: 1.5}, ...more});
    const own = subsets.map((one, place) => line(one.name, one.y, one.name === "placebo" ? colour("--muted") : colour("--kept"), {
      x: one.x, marker: {symbol: shapes[place % shapes.length], size: 8}, customdata: one.interval, hovertemplate: "%{y:.1%} ± %{customdata:.1%} over seeds",
      line: {width: 1.5, dash: one.name === "placebo" ? "dot" : ways[place % ways.length], color: one.name === "placebo" ? colour("--muted") : colour("--kept")},
    }));
    return {
      traces: [
        {type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...around(1), ...around(-1).reverse()], fill: "toself", name: "chance", hoverinfo: "skip", fillcolor: colour("--line"), line: {width: 0}},
        line("random draws", random, colour("--dropped"), {error_y: {type: "data", array: band, thickness: 2, visible: x.length === 1}}),
        line("all rows", [all, all], colour("--ink"), {x: x.length > 1 ? [Math.min(...x), Math.max(...x)] : [.9 * x[0], Math.min(1, 1.1 * x[0])], mode: "lines", line: {color: colour("--ink"), dash: "dash", width: 1}}),
        ...own,
      ],
      layout: {xaxis: {title: {text: "share of the pool"}, tickformat: ".0%"}, yaxis: {title: {text: escaped(metric)}, tickformat: ".1%"}},
    };
  },
  weights({edges, counts}, colour) {
    return {
      traces: [{
        type: "bar", x: counts.map((_, bin) => (edges[bin] + edges[bin + 1]) / 2), width: edges[1] - edges[0], y: counts,
        hovertemplate: "%{y:,} rows<br>weight %{x:.3f}<extra></extra>", marker: {color: colour("--kept"), line: {width: .5, color: colour("--page")}},
      }],
      layout: {bargap: 0, showlegend: false, margin: {t: 8}, xaxis: {title: {text: "weight"}}, yaxis: {title: {text: "rows"}, tickformat: "~s"}},
    };
  },
};

// Plotly reads its texts as HTML of its own: names from the data are escaped for it.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const diverging = (colour) => [[0, colour("--dropped")], [.5, colour("--faint")], [1, colour("--kept")]];

function padded(values) {
  const low = Math.min(...values), high = Math.max(...values), more = (high - low || 1) * .08;
  return [low - more, high + more];
}

function merge(base, more) {
  const merged = {...base};
  for (const [key, value] of Object.entries(more)) {
    merged[key] = value && value.constructor === Object && base[key] ? merge(base[key], value) : value;
  }
  return merged;
}

// What figures show besides their data: the budgets at the sliders.
const drawn = {};

function draw(only = null) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true, ticks: "",
    title: {standoff: 8, font: {size: 12}},
  };
  const shared = {
    font: {family: style.fontFamily, size: 12, color: colour("--muted")}, xaxis: axis, yaxis: axis,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 56, r: 8, t: 34, b: 44},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant", traceorder: "normal"}, showlegend: true,
    hoverlabel: {align: "left", bgcolor: colour("--page"), bordercolor: colour("--muted"), font: {color: colour("--ink"), size: 12}},
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
  for (const place of document.querySelectorAll("[data-figure]")) {
    const name = place.dataset.figure;
    if (only && name !== only) continue;
    const {traces, layout} = figures[name](data[name === "histogram" ? "scores" : name], colour);
    Plotly.react(place, traces, merge(shared, layout), {responsive: true, displayModeBar: false, displaylogo: false});
  }
}
