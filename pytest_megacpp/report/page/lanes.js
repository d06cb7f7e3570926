// Owns the picture of one world: lanes of ranks on a canvas. Must not know the rest of the page.

const KINDS = ["start", "collection", "phase", "step", "compile", "group", "collective", "wait"];
const ABOVE = { start: 0, collection: 0, phase: 0, step: 1, compile: 2, group: 3, collective: 3, wait: 3 };
const GUTTER = 176,
  AXIS = 38,
  RIGHT = 26;
// The colour of what is written on a span.
const ON = { wait: "#1b1f24", compile: "#ffffff", group: "#ffffff", collective: "bg", test: "bg" };
const COLOURS = [
  ...KINDS,
  "bg",
  "panel",
  "line",
  "ink",
  "faint",
  "bad",
  "bad-soft",
  "good",
  "death",
  "failure",
  "act",
  "mismatch",
  "fault",
  "problem",
  "cpu",
  "focus",
  "warn",
];
const HEAT_FROM = 129,
  DENSE_FROM = 17;
const MOST_LABEL = 260, // pixels of a mark's text
  LEAST_LABEL = 40; // less says nothing
const MOST_HEADS = 4, // of a wait
  SAME = 2e-6; // times are whole microseconds

/** The widest part of `room` from `x` on that no note takes: [x, room]. */
function widest(x, room, notes) {
  let from = x,
    found = [x, 0];
  for (const { left, right } of [...notes, { left: x + room, right: Infinity }]) {
    const free = Math.min(left, x + room) - from;
    if (free > found[1]) found = [from, free];
    from = Math.max(from, right + 2);
  }
  return found;
}

/** One rank's spans as columns, with the largest end so far, so that the first visible one is found by halving. */
function columnsOf(flat) {
  const n = flat.length / 5,
    lane = {
      n,
      start: new Float64Array(n),
      end: new Float64Array(n),
      what: new Int32Array(n),
      number: new Float64Array(n),
      peers: new Int32Array(n),
      reach: new Float64Array(n),
    };
  let at = 0,
    reach = -1;
  for (let i = 0; i < n; i++) {
    at += flat[5 * i];
    lane.start[i] = at / 1e6;
    lane.end[i] = (at + flat[5 * i + 1]) / 1e6;
    lane.what[i] = flat[5 * i + 2];
    lane.number[i] = flat[5 * i + 3];
    lane.peers[i] = flat[5 * i + 4];
    reach = Math.max(reach, lane.end[i]);
    lane.reach[i] = reach;
  }
  return lane;
}

function firstAt(sorted, n, value) {
  let low = 0,
    high = n;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function seconds(s) {
  const size = Math.abs(s);
  if (size >= 100) return s.toFixed(0) + " s";
  if (size >= 1) return s.toFixed(2) + " s";
  if (size >= 1e-3) return (s * 1e3).toFixed(size >= 0.1 ? 0 : 1) + " ms";
  return (s * 1e6).toFixed(0) + " µs";
}

class Lanes {
  /**
   * `data`: the page's. `chosen(hit)` is called with what was clicked, `hover(hit, x, y)` with what is under the mouse.
   */
  constructor(data, canvas, chosen, hover, selectTest) {
    Object.assign(this, { data, canvas, chosen, hover, selectTest });
    this.context = canvas.getContext("2d");
    this.decoded = new Map();
    this.zero = 0;
    this.filter = null;
    this.found = null;
    this.selected = null;
    this.listen();
  }

  /** Shows a world, with the ranks of a verdict, and times counted from `zero`. */
  show(world, view) {
    this.world = world;
    this.lanes = this.decoded.get(world);
    if (!this.lanes) this.decoded.set(world, (this.lanes = world.lanes.map(columnsOf)));
    this.view = view; // {test, attempt, blamed: Set, waits: [{at_s, span, ranks, targets}], states: Map}
    this.zero = view.attempt && view.attempt.start_s !== null ? view.attempt.start_s : world.start_s;
    this.marksHere = this.marksOf(world);
    this.waits = view.waits.map((wait) => ({ wait, spans: this.waitingIn(wait.span) }));
    this.selected = null;
    this.layout();
  }

  /** Its own marks, and those of the run until the next world starts. */
  marksOf(world) {
    const n = this.data.worlds.indexOf(world),
      next = this.data.worlds[n + 1],
      from = n ? world.start_s : 0,
      to = next ? next.start_s : Infinity;
    const ofRun = this.data.marks.filter(([at]) => at >= from && at < to);
    return [...world.marks, ...ofRun].sort((a, b) => a[0] - b[0]);
  }

  bounds() {
    return [this.world.start_s, Math.max(this.world.end_s, this.world.start_s + 1e-3)];
  }

  fitWorld() {
    this.zoomTo(...this.bounds());
  }

  fitTest() {
    const a = this.view.attempt;
    if (!a || a.start_s === null) return this.fitWorld();
    const end = a.end_s === null ? this.bounds()[1] : a.end_s,
      pad = Math.max((end - a.start_s) * 0.03, 1e-4);
    this.zoomTo(a.start_s - pad, end + pad);
  }

  zoomTo(from, to) {
    const [low, high] = this.bounds(),
      room = (high - low) * 0.03 + 1e-4;
    const span = Math.min(Math.max(to - from, 2e-5), high - low + 2 * room);
    const start = Math.min(Math.max(from, low - room), high + room - span);
    this.from = start;
    this.to = start + span;
    this.draw();
  }

  zoom(factor, x) {
    const at = x === undefined ? (this.from + this.to) / 2 : this.timeAt(x);
    this.zoomTo(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  pan(share) {
    const by = (this.to - this.from) * share;
    this.zoomTo(this.from + by, this.to + by);
  }

  ranks() {
    const all = [...this.lanes.keys()];
    return this.filter ? all.filter((r) => this.filter.has(r)) : all;
  }

  layout() {
    const shown = this.ranks(),
      n = shown.length;
    this.heat = n >= HEAT_FROM;
    this.dense = !this.heat && n >= DENSE_FROM;
    const height = this.heat ? Math.max(1, Math.floor(900 / n)) : this.dense ? (n > 64 ? 9 : 13) : n > 8 ? 40 : 50;
    let y = AXIS + (this.data.steps.length || this.data.tests.length ? 24 : 0);
    this.boxTop = AXIS + 2;
    this.rows = shown.map((rank) => {
      const h = this.heat && this.view.blamed.has(rank) ? Math.max(height, 15) : height;
      const row = { rank, y, h };
      y += h + (this.heat ? 0 : 2);
      return row;
    });
    this.rowOf = new Map(this.rows.map((row) => [row.rank, row]));
    this.height = y + 8;
  }

  timeAt(x) {
    return this.from + ((x - GUTTER) / (this.width - GUTTER - RIGHT)) * (this.to - this.from);
  }

  x(time) {
    return GUTTER + ((time - this.from) / (this.to - this.from)) * (this.width - GUTTER - RIGHT);
  }

  /** The colours of the page's style as they are now. A canvas doesn't show what is in it, so elements in it ask. */
  colours() {
    this.asking =
      this.asking ||
      COLOURS.map((name) => {
        const element = h("i");
        element.style.color = "var(--" + name + ")";
        this.canvas.append(element);
        return element;
      });
    this.colour = Object.fromEntries(COLOURS.map((name, n) => [name, getComputedStyle(this.asking[n]).color]));
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint(width) {
    this.width = width || this.canvas.clientWidth || 900;
    const ratio = Math.min(window.devicePixelRatio || 1, 2),
      c = this.context;
    const wide = Math.round(this.width * ratio),
      high = Math.round(this.height * ratio);
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.canvas.style.height = this.height + "px";
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.colours();
    c.fillStyle = this.colour.bg;
    c.fillRect(0, 0, this.width, this.height);
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "middle";
    this.axis();
    for (const row of this.rows) this.lane(row);
    this.clipped(() => {
      this.boxRow();
      this.marks();
      this.arrows();
      this.cursor();
    });
    this.labels();
  }

  clipped(what) {
    const c = this.context;
    c.save();
    c.beginPath();
    c.rect(GUTTER, 0, this.width - GUTTER, this.height);
    c.clip();
    what();
    c.restore();
  }

  axis() {
    const c = this.context,
      span = this.to - this.from,
      rough = span / Math.max(2, (this.width - GUTTER) / 110);
    const power = 10 ** Math.floor(Math.log10(rough)),
      step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    c.fillStyle = this.colour.faint;
    c.strokeStyle = this.colour.line;
    c.lineWidth = 1;
    c.textAlign = "left";
    const first = Math.ceil((this.from - this.zero) / step);
    for (let n = first; this.zero + n * step <= this.to; n++) {
      const x = Math.round(this.x(this.zero + n * step)) + 0.5;
      if (x < GUTTER) continue;
      c.beginPath();
      c.moveTo(x, 18);
      c.lineTo(x, this.height);
      c.stroke();
      c.fillText(n === 0 ? "0" : (n > 0 ? "+" : "−") + seconds(Math.abs(n * step)), x + 3, 10);
    }
    c.textAlign = "right";
    c.fillText(
      this.view.attempt && this.view.attempt.start_s !== null ? "since the test began" : "since its start",
      GUTTER - 8,
      10,
    );
  }

  /** First and last place in a lane that the window shows. */
  visible(lane) {
    const first = firstAt(lane.reach, lane.n, this.from);
    let last = firstAt(lane.start, lane.n, this.to);
    return [first, last];
  }

  lane(row) {
    const c = this.context,
      lane = this.lanes[row.rank],
      blamed = this.view.blamed.has(row.rank);
    if (blamed) {
      c.fillStyle = this.colour["bad-soft"];
      c.fillRect(0, row.y, this.width, row.h);
    } else if (!this.heat) {
      c.fillStyle = this.colour.panel;
      c.fillRect(GUTTER, row.y, this.width - GUTTER, row.h);
    }
    this.clipped(() => {
      if (!this.heat && !this.dense) this.cpu(row);
      this.spans(row, lane);
    });
  }

  /** Where a kind is drawn in a lane: [top, height]. */
  place(kind, row) {
    if (this.heat) return [row.y, row.h];
    if (this.dense)
      return ABOVE[kind] < 2
        ? [row.y, row.h]
        : ABOVE[kind] === 2
          ? [row.y + 1, row.h - 2]
          : [row.y + row.h * 0.3, row.h * 0.7 - 1];
    const unit = row.h / 50;
    return {
      0: [row.y + 1, 15 * unit],
      1: [row.y + 9 * unit, 7 * unit],
      2: [row.y + 17 * unit, 9 * unit],
      3: [row.y + 27 * unit, 16 * unit],
    }[ABOVE[kind]];
  }

  spans(row, lane) {
    const c = this.context,
      [first, last] = this.visible(lane),
      painted = new Map(),
      texts = [];
    const scale = (this.width - GUTTER - RIGHT) / (this.to - this.from),
      left = GUTTER,
      right = this.width;
    for (let level = 0; level < 4; level++) {
      for (let i = first; i < last; i++) {
        if (lane.end[i] < this.from) continue;
        const what = this.data.whats[lane.what[i]],
          kind = what[0];
        if (ABOVE[kind] !== level) continue;
        const x = Math.max(left, GUTTER + (lane.start[i] - this.from) * scale);
        const end = Math.min(right, GUTTER + (lane.end[i] - this.from) * scale),
          wide = end - x;
        if (wide < 1) {
          // thinned per pixel: of many short ones in a pixel one is drawn
          const pixel = x | 0;
          if (painted.get(kind) === pixel) continue;
          painted.set(kind, pixel);
        }
        const [y, h] = this.place(kind, row),
          isHit = this.found && this.found(row.rank, lane, i);
        c.globalAlpha = this.found && !isHit ? 0.25 : this.heat && level === 0 ? 0.6 : 1;
        c.fillStyle = this.colour[kind];
        c.fillRect(x, y, Math.max(wide - (wide > 4 ? 0.6 : 0), 1.2), h);
        if (isHit) {
          c.strokeStyle = this.colour.ink;
          c.lineWidth = 1.5;
          c.strokeRect(x, y, Math.max(wide, 2), h);
        }
        c.globalAlpha = 1;
        if (!this.heat && !this.dense && h >= 10 && wide > 34)
          texts.push([this.title(lane, i), x + 4, y + h / 2 + 0.5, wide - 7, kind]);
      }
    }
    const notes = texts.length ? this.notes(row) : [];
    for (const [text, x, y, room, kind] of texts) {
      const [from, free] = ABOVE[kind] === 0 ? widest(x, room, notes) : [x, room];
      this.text(text, from, y, free, kind);
    }
    if (this.selected && this.selected.rank === row.rank && this.selected.i !== undefined) {
      const i = this.selected.i,
        [y, h] = this.place(this.data.whats[lane.what[i]][0], row);
      c.strokeStyle = this.colour.focus;
      c.lineWidth = 2;
      c.strokeRect(this.x(lane.start[i]) - 1, y - 1, Math.max((lane.end[i] - lane.start[i]) * scale, 2) + 2, h + 2);
    }
  }

  cut(text, room) {
    let shown = text;
    while (shown.length > 1 && this.context.measureText(shown).width > room)
      shown =
        shown.slice(
          0,
          Math.min(shown.length - 2, Math.floor((shown.length * room) / this.context.measureText(shown).width)),
        ) + "…";
    return shown;
  }

  text(text, x, y, room, kind) {
    const c = this.context;
    c.textAlign = "left";
    c.fillStyle = this.colour[ON[kind] || "ink"] || ON[kind];
    const shown = this.cut(text, room);
    if (shown.length > 3 || shown === text) c.fillText(shown, x, y);
  }

  title(lane, i) {
    const [kind, name] = this.data.whats[lane.what[i]],
      number = lane.number[i] ? " #" + lane.number[i] : "";
    const bare = kind === "collective" || kind === "wait" ? name.split("(")[0] : kind === "compile" ? "compiles" : name;
    const peers = this.data.peers[lane.peers[i]][0];
    if (kind === "wait")
      return peers
        ? "waits for " + (/^\d+$/.test(peers) ? "rank " : "ranks ") + peers + " · " + bare + number
        : "waits in " + bare + number;
    return bare + number + (kind === "collective" && peers ? ", until " + named(peers) + " came" : "");
  }

  cpu(row) {
    const points = this.world.cpu[row.rank],
      c = this.context;
    if (!points || points.length < 2) return;
    const base = row.y + row.h - 1,
      high = row.h * 0.13;
    c.fillStyle = this.colour.cpu;
    for (let i = 1; i < points.length; i++) {
      const [a, from] = points[i - 1],
        [b, to] = points[i];
      if (b < this.from || a > this.to || b <= a) continue;
      const share = Math.min(1, Math.max(0, (to - from) / (b - a)));
      c.fillRect(this.x(a), base - high * share, Math.max(1, this.x(b) - this.x(a)), Math.max(high * share, 0.4));
    }
  }

  /** The row above the lanes: steps of the box, and the tests. */
  boxRow() {
    const c = this.context,
      y = this.boxTop;
    for (const [from, to, what] of this.data.steps) {
      c.fillStyle = this.colour.start;
      c.fillRect(this.x(from), y, Math.max(1, this.x(to) - this.x(from)), 18);
      this.text(what, this.x(from) + 3, y + 9, this.x(to) - this.x(from) - 5, "start");
    }
    let last = -1;
    for (const [test, attempt] of this.attempts()) {
      const x = this.x(attempt.start_s),
        end = this.x(attempt.end_s === null ? this.world.end_s : attempt.end_s);
      if (end < GUTTER || x > this.width || (end - x < 1 && (x | 0) === last && attempt.code === "passed")) continue;
      last = x | 0;
      const isGreen = attempt.green;
      c.fillStyle = isGreen ? this.colour.good : this.colour.bad;
      c.globalAlpha = test === this.view.test ? 1 : 0.45;
      c.fillRect(x, y, Math.max(end - x - 0.6, 1.2), 18);
      c.globalAlpha = 1;
      if (end - x > 40) {
        const name = test.nodeid.split("::").pop(),
          from = Math.max(x, GUTTER);
        this.text((attempt.purpose ? attempt.purpose + " · " : "") + name, from + 4, y + 9.5, end - from - 6, "test");
      }
    }
  }

  attempts() {
    if (this.attemptsOf !== this.world) {
      this.attemptsOf = this.world;
      const number = this.data.worlds.indexOf(this.world);
      this.ownAttempts = this.data.tests.flatMap((test) =>
        test.attempts.filter((a) => a.world === number && a.start_s !== null).map((a) => [test, a]),
      );
      this.ownAttempts.sort((a, b) => a[1].start_s - b[1].start_s);
    }
    return this.ownAttempts;
  }

  marks() {
    const c = this.context,
      seen = new Map();
    for (const [at, kind, rank, text] of this.marksHere) {
      const x = this.x(at);
      if (x < GUTTER - 10 || x > this.width + 10) continue;
      if (rank === null) {
        c.strokeStyle = this.colour[kind];
        c.lineWidth = 1.5;
        c.setLineDash([5, 3]);
        c.beginPath();
        c.moveTo(x, AXIS - 4);
        c.lineTo(x, this.height);
        c.stroke();
        c.setLineDash([]);
        const key = Math.round(x / 30),
          short = kind === "act" ? "the box acted" : this.cut(text, 240);
        if (!seen.has(key)) {
          seen.set(key, 1);
          c.fillStyle = this.colour[kind];
          c.textAlign = x > this.width - 130 ? "right" : "left";
          c.fillText("▼ " + short, x + (x > this.width - 130 ? 5 : -5), 28);
        }
        continue;
      }
      const row = this.rowOf.get(rank);
      if (!row) continue;
      const size = this.markSize(),
        y = row.y + Math.min(row.h / 2, 9);
      c.strokeStyle = c.fillStyle = this.view.blamed.has(rank) ? this.colour[kind] : this.colour.warn;
      c.lineWidth = this.heat ? 2 : 2.5;
      this.glyph(kind, x, y, size);
    }
    if (!this.heat && !this.dense) for (const row of this.rows) this.marksLabels(row);
  }

  markSize() {
    return this.heat || this.dense ? 5 : 7;
  }

  /** ✕ of a death, ≠ of another collective than the others, ◆ of any failure. */
  glyph(kind, x, y, size) {
    const c = this.context,
      line = (ax, ay, bx, by) => {
        c.moveTo(x + ax * size, y + ay * size);
        c.lineTo(x + bx * size, y + by * size);
      };
    c.beginPath();
    if (kind === "death") {
      line(-1, -1, 1, 1);
      line(1, -1, -1, 1);
      c.stroke();
    } else if (kind === "mismatch") {
      line(-1, -0.4, 1, -0.4);
      line(-1, 0.4, 1, 0.4);
      line(-0.6, 1, 0.6, -1);
      c.stroke();
    } else {
      line(0, -1, 1, 0);
      c.lineTo(x, y + size);
      c.lineTo(x - size, y);
      c.closePath();
      c.fill();
    }
  }

  /**
   * The marks of a rank with their labels: from where to where each takes room. A label ends before the mark beside it;
   * one that finds no room is empty.
   */
  notes(row) {
    const c = this.context,
      size = this.markSize(),
      blamed = this.view.blamed.has(row.rank);
    const here = this.marksHere
      .filter((mark) => mark[2] === row.rank)
      .map((mark) => [mark, this.x(mark[0])])
      .filter(([, x]) => x >= GUTTER - 10 && x <= this.width + 10);
    let taken = GUTTER;
    return here.map(([[, kind, , text], x], n) => {
      const from = x - size,
        to = x + size,
        wide = Math.min(c.measureText(text).width, MOST_LABEL),
        isRight = to + 6 + Math.min(wide, 220) > this.width;
      const next = n + 1 < here.length ? here[n + 1][1] - size : this.width,
        room = (isRight ? from - 6 - taken : next - to - 6) - 2;
      const wanted = (blamed || kind !== "failure" || row.h > 30) && room > LEAST_LABEL,
        label = wanted ? this.cut(text, Math.min(MOST_LABEL, room)) : "",
        long = label ? c.measureText(label).width + 6 : 0;
      const note = { kind, label, x: isRight ? from - 4 : to + 4, isRight, left: from - 2, right: to + 2 };
      if (isRight) note.left -= long;
      else note.right += long;
      taken = note.right;
      return note;
    });
  }

  marksLabels(row) {
    const c = this.context,
      y = row.y + Math.min(row.h / 2, 9);
    for (const { kind, label, x, isRight } of this.notes(row)) {
      if (!label) continue;
      const wide = c.measureText(label).width;
      c.textAlign = isRight ? "right" : "left";
      c.fillStyle = this.colour.bg;
      c.globalAlpha = 0.85;
      c.fillRect(isRight ? x - wide - 2 : x - 2, y - 8, wide + 4, 16);
      c.globalAlpha = 1;
      c.fillStyle = this.view.blamed.has(row.rank) ? this.colour[kind] : this.colour.warn;
      c.fillText(label, x, y + 0.5);
    }
  }

  /** From when to when each rank was in a wait, by rank. */
  waitingIn([what, number, peers]) {
    const found = new Map();
    this.lanes.forEach((lane, rank) => {
      for (let i = 0; i < lane.n; i++)
        if (lane.what[i] === what && lane.number[i] === number && lane.peers[i] === peers)
          found.set(rank, [lane.start[i], lane.end[i]]);
    });
    return found;
  }

  /**
   * What arrows there are: from the ranks whose wait lasts to its `x`, to the first ones for which they wait. A rank at
   * which several point has one note.
   */
  arrowsShown() {
    const arrows = [],
      notes = new Map();
    for (const { wait, spans } of this.waits) {
      const heads = wait.targets.filter((rank) => this.rowOf.has(rank)).slice(0, MOST_HEADS);
      const reaches = (time) => (row) => {
        const span = spans.get(row.rank);
        return span && span[0] <= time + SAME && time <= span[1] + SAME;
      };
      let x = this.x(wait.at_s) - 9 - 11 * arrows.length,
        dots = this.rows.filter(reaches(this.timeAt(x)));
      if (!dots.length) {
        x = this.x(wait.at_s);
        dots = this.rows.filter(reaches(wait.at_s));
      }
      if (!heads.length || !dots.length || x < GUTTER || x > this.width) continue;
      for (const rank of heads) {
        const note = notes.get(rank) || { rank, x, ranks: new Set(), more: 0 };
        for (const other of wait.ranks) note.ranks.add(other);
        note.x = Math.min(note.x, x);
        if (rank === heads[heads.length - 1]) note.more = Math.max(note.more, wait.targets.length - heads.length);
        notes.set(rank, note);
      }
      arrows.push({ x, dots: dots.map((row) => row.rank), heads });
    }
    const noted = [...notes.values()].map(({ rank, x, ranks, more }) => ({
      rank,
      x,
      isBlamed: this.view.blamed.has(rank),
      text:
        named(listOf(ranks)) +
        (ranks.size === 1 ? " waits" : " wait") +
        " for this rank" +
        (more ? " and " + more + " more" : ""),
    }));
    return { arrows, notes: noted };
  }

  /** From the ranks that waited to those for which they did, at the moment of the verdict. */
  arrows() {
    const c = this.context,
      { arrows, notes } = this.arrowsShown();
    const middle = (row) => row.y + row.h * (this.heat || this.dense ? 0.5 : 0.7);
    c.strokeStyle = c.fillStyle = this.colour.ink;
    c.lineWidth = 2;
    for (const { x, dots, heads } of arrows) {
      const ends = dots.map((rank) => middle(this.rowOf.get(rank)));
      const ys = [...ends, ...heads.map((rank) => this.headAt(rank))];
      c.beginPath();
      c.moveTo(x, Math.min(...ys));
      c.lineTo(x, Math.max(...ys));
      c.stroke();
      if (dots.length <= 128)
        for (const y of ends) {
          c.beginPath();
          c.arc(x, y, this.heat ? 1 : 3, 0, 7);
          c.fill();
        }
    }
    for (const note of notes)
      this.head(
        arrows.filter(({ heads }) => heads.includes(note.rank)).map(({ x }) => x),
        this.headAt(note.rank),
        note.isBlamed ? this.colour.bad : this.colour.warn,
        note.text,
      );
  }

  headAt(rank) {
    const row = this.rowOf.get(rank);
    return row.y + row.h / 2;
  }

  /** One head, from all the lines `xs` that point to the same row. */
  head(xs, to, colour, text) {
    const c = this.context,
      tip = Math.min(...xs) - 22;
    c.strokeStyle = c.fillStyle = colour;
    c.beginPath();
    c.moveTo(Math.max(...xs), to);
    c.lineTo(tip + 6, to);
    c.stroke();
    c.beginPath();
    c.moveTo(tip, to);
    c.lineTo(tip + 9, to - 5);
    c.lineTo(tip + 9, to + 5);
    c.closePath();
    c.fill();
    c.textAlign = "right";
    c.font = "bold 12px system-ui, sans-serif";
    const wide = c.measureText(text).width;
    if (tip - wide - 8 > GUTTER) {
      c.fillStyle = this.colour.bg;
      c.fillRect(tip - wide - 8, to - 8, wide + 6, 16);
      c.fillStyle = colour;
      c.fillText(text, tip - 5, to + 0.5);
    }
    c.font = "12px system-ui, sans-serif";
  }

  cursor() {
    if (this.at === undefined) return;
    const c = this.context,
      x = Math.round(this.x(this.at)) + 0.5;
    c.strokeStyle = this.colour.focus;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(x, AXIS);
    c.lineTo(x, this.height);
    c.stroke();
  }

  labels() {
    const c = this.context;
    if (this.rows.length && this.rows[0].y > AXIS + 10) {
      c.textAlign = "right";
      c.fillStyle = this.colour.faint;
      c.fillText("tests", GUTTER - 8, this.boxTop + 9);
    }
    c.textAlign = "right";
    let last = -100;
    for (const row of this.rows) {
      const blamed = this.view.blamed.has(row.rank),
        middle = row.y + row.h / 2;
      if (!blamed && ((this.heat && row.rank % 64) || middle - last < (this.dense ? 9 : 12))) continue;
      last = middle;
      c.fillStyle = blamed ? this.colour.bad : this.colour.ink;
      c.font = (blamed ? "bold " : "") + (this.dense && row.h < 12 ? 10 : 12) + "px system-ui, sans-serif";
      const state = this.view.states.get(row.rank),
        twoLines = !this.heat && !this.dense && state && row.h >= 36;
      const room = GUTTER - 12,
        y = twoLines ? row.y + 13 : middle;
      c.fillText((blamed ? "✗ " : "") + "rank " + row.rank, GUTTER - 8, y);
      if (twoLines) {
        c.font = "11px system-ui, sans-serif";
        c.fillStyle = blamed ? this.colour.bad : this.colour.faint;
        c.fillText(this.cut(state, room), GUTTER - 8, row.y + 29);
      }
    }
    c.font = "12px system-ui, sans-serif";
  }

  // -- what is under the mouse ---------------------------------------------------------------------------------

  hit(x, y) {
    const row = this.rows.find((r) => y >= r.y && y < r.y + r.h + 2);
    if (!row) {
      if (y >= this.boxTop && y < this.boxTop + 20 && x > GUTTER) {
        const time = this.timeAt(x),
          slack = ((this.to - this.from) / this.width) * 2;
        const found = this.attempts().find(
          ([, a]) => time >= a.start_s - slack && time <= (a.end_s === null ? this.world.end_s : a.end_s) + slack,
        );
        return found ? { test: found[0], attempt: found[1] } : null;
      }
      return null;
    }
    if (x < GUTTER) return { rank: row.rank };
    for (const mark of this.marksHere) {
      if (mark[2] === row.rank && Math.abs(this.x(mark[0]) - x) < 8) return { rank: row.rank, mark };
    }
    const lane = this.lanes[row.rank],
      time = this.timeAt(x),
      slack = ((this.to - this.from) / (this.width - GUTTER)) * 2;
    let best,
      level = -1,
      length = Infinity;
    const first = firstAt(lane.reach, lane.n, time - slack),
      last = firstAt(lane.start, lane.n, time + slack);
    for (let i = first; i < last; i++) {
      if (lane.end[i] < time - slack) continue;
      const kind = this.data.whats[lane.what[i]][0],
        [top, high] = this.place(kind, row);
      const inside = this.heat || (y >= top - 1 && y <= top + high + 1),
        rank = ABOVE[kind] + (inside ? 10 : 0);
      if (!inside) continue;
      if (rank > level || (rank === level && lane.end[i] - lane.start[i] < length)) {
        level = rank;
        best = i;
        length = lane.end[i] - lane.start[i];
      }
    }
    return best === undefined ? { rank: row.rank, time } : { rank: row.rank, i: best, time };
  }

  listen() {
    const canvas = this.canvas;
    let drag = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) {
          event.preventDefault();
          const by = event.deltaY || event.deltaX;
          if (event.shiftKey) this.pan(by / 1200);
          else this.zoom(Math.exp(by / 400), place(event)[0]);
        } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
          event.preventDefault();
          this.pan(event.deltaX / this.width);
        }
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = place(event);
      drag = { x, y, from: this.from, to: this.to, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (drag && Math.abs(x - drag.x) > 3) drag.moved = true;
      if (drag && drag.moved) {
        const by = ((drag.x - x) / (this.width - GUTTER - RIGHT)) * (drag.to - drag.from);
        this.zoomTo(drag.from + by, drag.to + by);
      } else this.hover(this.hit(x, y), event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerup", (event) => {
      const [x, y] = place(event);
      if (drag && !drag.moved) this.choose(this.hit(x, y));
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => {
      drag = null;
    });
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("dblclick", (event) => {
      const hit = this.hit(...place(event));
      if (hit && hit.i !== undefined) this.fitSpan(hit);
      else this.zoom(0.5, place(event)[0]);
    });
  }

  fitSpan({ rank, i }) {
    const lane = this.lanes[rank],
      pad = Math.max((lane.end[i] - lane.start[i]) * 0.2, 2e-4);
    this.zoomTo(lane.start[i] - pad, lane.end[i] + pad);
  }

  choose(hit) {
    if (hit && hit.test) return this.selectTest(hit.test, hit.attempt);
    this.selected = hit;
    this.at =
      hit && hit.i !== undefined ? this.lanes[hit.rank].start[hit.i] : hit && hit.mark ? hit.mark[0] : undefined;
    this.draw();
    this.chosen(hit);
  }

  /** Chooses the next span (`by` 1 or -1) of the rank, of those that a search found if there is one. */
  step(by) {
    const rank =
      this.selected && this.selected.rank !== undefined ? this.selected.rank : this.rows.length ? this.rows[0].rank : 0;
    const lane = this.lanes[rank];
    let i =
      this.selected && this.selected.i !== undefined ? this.selected.i + by : firstAt(lane.start, lane.n, this.from);
    while (i >= 0 && i < lane.n && this.found && !this.found(rank, lane, i)) i += by;
    if (i >= 0 && i < lane.n) this.reveal({ rank, i });
  }

  hasHit() {
    return this.rows.some(({ rank }) => this.hitFrom(rank, 0, 1) !== undefined);
  }

  /** The first place in the lane of a rank, from `i` on, that the search found. */
  hitFrom(rank, i, by) {
    const lane = this.lanes[rank];
    while (i >= 0 && i < lane.n && !this.found(rank, lane, i)) i += by;
    return i >= 0 && i < lane.n ? i : undefined;
  }

  /**
   * Chooses the next hit of the search, in this lane or those below it, and after the last one the first one again; the
   * first one is looked for from the left of the window on, if there is any.
   */
  stepHit(by) {
    if (!this.found || !this.rows.length) return;
    const chosen = this.selected && this.selected.i !== undefined && this.rowOf.has(this.selected.rank);
    const hit = (!chosen && by > 0 && this.hitAfter(this.from)) || this.hitElsewhere(chosen ? this.selected : null, by);
    if (hit) this.reveal(hit);
  }

  hitAfter(time) {
    for (const { rank } of this.rows) {
      const lane = this.lanes[rank],
        i = this.hitFrom(rank, firstAt(lane.start, lane.n, time), 1);
      if (i !== undefined) return { rank, i };
    }
  }

  hitElsewhere(chosen, by) {
    const n = this.rows.length,
      first = chosen ? this.rows.indexOf(this.rowOf.get(chosen.rank)) : 0;
    for (let k = 0; k <= n; k++) {
      const { rank } = this.rows[(((first + by * k) % n) + n) % n];
      const edge = by > 0 ? 0 : this.lanes[rank].n - 1;
      const i = this.hitFrom(rank, chosen && k === 0 ? chosen.i + by : edge, by);
      if (i !== undefined) return { rank, i };
    }
  }

  /** Chooses a span of the next rank, at about the same time. */
  stepRank(by) {
    const current =
      this.selected && this.selected.rank !== undefined
        ? this.rows.findIndex((r) => r.rank === this.selected.rank)
        : by > 0
          ? -1
          : this.rows.length;
    const row = this.rows[current + by];
    if (!row) return;
    const lane = this.lanes[row.rank],
      at = this.at === undefined ? this.from : this.at;
    const i = Math.max(0, firstAt(lane.start, lane.n, at + 1e-9) - 1);
    this.reveal(lane.n ? { rank: row.rank, i } : { rank: row.rank });
  }

  stepMark(by) {
    const marks = this.marksHere,
      at = this.at === undefined ? (by > 0 ? -Infinity : Infinity) : this.at;
    const next = by > 0 ? marks.find((m) => m[0] > at) : [...marks].reverse().find((m) => m[0] < at);
    if (!next) return;
    if (next[0] < this.from || next[0] > this.to)
      this.zoomTo(next[0] - (this.to - this.from) / 2, next[0] + (this.to - this.from) / 2);
    this.choose(next[2] === null ? { mark: next } : { rank: next[2], mark: next });
    this.at = next[0];
    this.draw();
  }

  reveal(hit) {
    if (hit.i !== undefined) {
      const lane = this.lanes[hit.rank],
        start = lane.start[hit.i],
        half = (this.to - this.from) / 2;
      if (start < this.from || start > this.to) this.zoomTo(start - half, start + half);
    }
    this.choose(hit);
  }

  /** Shows the moment `at` of a rank. */
  jump(at, rank) {
    this.at = at;
    if (at < this.from || at > this.to) this.zoomTo(at - (this.to - this.from) / 2, at + (this.to - this.from) / 2);
    const row = rank === null ? undefined : this.rowOf.get(rank);
    this.selected = row ? { rank } : null;
    this.draw();
    return row;
  }
}
