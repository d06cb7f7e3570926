// Owns everything around the picture: tests, verdict, what was chosen, keys. Must not know how lanes are drawn.

(function () {
  const data = JSON.parse(document.getElementById("data").textContent);

  const state = { test: null, attempt: null, world: 0, onlyRed: false, search: "" };
  const canvas = h("canvas", { id: "lanes", tabindex: 0, role: "img" });
  let lanes,
    shownTests = [];

  // -- the list of tests -----------------------------------------------------------------------------------------

  const haystack = new Map(
    data.tests.map((test) => [
      test,
      [test.nodeid, test.code, test.outcome, test.cause, test.blamed_text, test.summary, test.defined_at]
        .join("\n")
        .toLowerCase(),
    ]),
  );
  const searchBox = h("input", {
    id: "search",
    type: "search",
    placeholder: "filter tests ( / )",
    "aria-label": "filter tests",
    autocomplete: "off",
  });
  const onlyRed = h(
    "button",
    { type: "button", id: "only-red", "aria-pressed": "false", onclick: () => toggleRed() },
    "only failures (e)",
  );
  const list = h("ol", { role: "listbox", "aria-label": "tests" });
  const counted = h("p", { class: "note", id: "counted" });

  function toggleRed() {
    state.onlyRed = !state.onlyRed;
    onlyRed.setAttribute("aria-pressed", String(state.onlyRed));
    listTests();
  }

  /** By Tab one gets to the chosen test of the list, from there to the others by arrows. */
  function reachable() {
    const chosen = [...list.children].find((item) => item.getAttribute("aria-selected") === "true") || list.firstChild;
    for (const item of list.children) item.setAttribute("tabindex", item === chosen ? "0" : "-1");
  }

  list.addEventListener("keydown", (event) => {
    const items = [...list.children],
      at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1, Enter: at, " ": at }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (!items[to]) return;
    items[to].click();
    items[to].focus();
  });

  const MOST_LISTED = 2000;

  function listTests() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    shownTests = data.tests.filter(
      (test) => (!state.onlyRed || !test.fine) && words.every((word) => haystack.get(test).includes(word)),
    );
    shownTests.sort((a, b) => a.fine - b.fine || a.green - b.green || a.index - b.index);
    list.replaceChildren(
      ...shownTests.slice(0, MOST_LISTED).map((test) =>
        h(
          "li",
          {
            role: "option",
            class: !test.fine ? "red" : test.green ? "" : "drill",
            "aria-selected": String(test === state.test),
            title: test.nodeid,
            "data-index": test.index,
            onclick: () => select(test),
          },
          h("span", {}, test.nodeid.split("::").slice(1).join("::") || test.nodeid),
          h("small", {}, test.nodeid.split("::")[0]),
          h(
            "small",
            {},
            h("b", {}, test.code),
            test.blamed_text ? " · " + test.blamed_text : "",
            test.code === "passed" && test.outcome === "passed" ? "" : " · " + test.outcome,
          ),
        ),
      ),
    );
    reachable();
    counted.textContent =
      shownTests.length +
      " of " +
      data.tests.length +
      " tests" +
      (shownTests.length > MOST_LISTED ? ", the first " + MOST_LISTED + " listed" : "");
  }

  searchBox.addEventListener("input", () => {
    state.search = searchBox.value;
    listTests();
  });

  // -- the verdict -----------------------------------------------------------------------------------------------

  function relative(seconds_, test) {
    const attempt = test.attempts.find((a) => a.decides),
      zero = attempt && attempt.start_s !== null ? attempt.start_s : 0;
    return (seconds_ >= zero ? "+" : "−") + Math.abs(seconds_ - zero).toFixed(2) + " s";
  }

  function copyButton(text) {
    const button = h(
      "button",
      {
        type: "button",
        onclick: () => {
          const done = () => {
            button.textContent = "copied";
            setTimeout(() => {
              button.textContent = "copy";
            }, 1500);
          };
          if (navigator.clipboard)
            navigator.clipboard.writeText(text).then(done, () => {
              button.textContent = "select it";
            });
        },
      },
      "copy",
    );
    return button;
  }

  function waitLine(wait) {
    const whom = wait.whom.length
      ? wait.whom.flatMap(([ranks, isBlamed], n) => [
          n ? " and " : " for ",
          h("b", { class: isBlamed ? "blamed" : "" }, ranks),
        ])
      : wait.all_came
        ? ", to which all members came"
        : wait.numbered
          ? ""
          : "; for whom isn't recorded";
    return h("li", {}, wait.ranks + " waited " + (wait.waited ? wait.waited + " " : "") + "in " + wait.what, whom);
  }

  /** The summary, with the blamed ranks set off in it, or before it if it does not name them. */
  function lead(test) {
    const who = test.blamed_text,
      blamed = who ? h("b", { id: "blamed" }, who) : null,
      at = test.says_blamed ? test.summary.search(new RegExp("\\b" + who + "(?![-,\\d])")) : -1;
    if (at < 0) return [blamed, who ? ": " : "", h("span", { id: "summary" }, test.summary)];
    return [h("span", { id: "summary" }, test.summary.slice(0, at), blamed, test.summary.slice(at + who.length))];
  }

  function verdict(test) {
    const box = $("verdict"),
      red = !test.green;
    box.className = red || !test.fine ? "red" : "";
    const facts = [
      ["certainty", test.green && test.certainty === "certain" ? "" : test.certainty],
      ["cause", test.cause],
      ["in", test.phase === "call" ? "" : test.phase],
      [
        "outcome",
        test.missed
          ? test.outcome + ": " + test.missed
          : test.outcome === test.code || test.outcome === "failed"
            ? ""
            : !test.green && test.fine
              ? test.outcome + ": this verdict was expected"
              : test.outcome,
      ],
    ].filter(([, value]) => value);
    const blamed = new Set(test.blamed);
    fill(
      box,
      h("p", { class: "nodeid" }, test.nodeid, test.defined_at ? " · " + test.defined_at : ""),
      h(
        "p",
        { class: "lead" },
        h("span", { class: "chip " + (red ? "bad" : "good"), id: "code" }, test.code),
        " ",
        lead(test),
      ),
      facts.length
        ? h(
            "p",
            { class: "facts" },
            facts.flatMap(([name, value], n) => [n ? " · " : "", name + " ", h("b", {}, value)]),
          )
        : null,
      test.attempts_line ? h("p", { class: "facts" }, "attempts: " + test.attempts_line) : null,
      test.waits && test.waits.length
        ? h(
            "ul",
            { class: "waits", id: "waits" },
            test.waits.slice(0, 6).map(waitLine),
            test.waits.length > 6
              ? h("li", {}, "and " + (test.waits.length - 6) + " more waits, in the lanes below")
              : null,
          )
        : null,
      test.states && test.states.length
        ? h(
            "ul",
            { class: "ranks", id: "states" },
            test.states.map(([who, rank, text]) =>
              h(
                "li",
                {},
                h(
                  "button",
                  {
                    type: "button",
                    class: blamed.has(rank) ? "blamed" : "",
                    onclick: () => lanes && lanes.rowOf.get(rank) && lanes.choose({ rank }),
                  },
                  (blamed.has(rank) ? "✗ " : "") + who + " " + text,
                ),
              ),
            ),
          )
        : null,
      test.next
        ? h("div", { class: "next" }, h("b", {}, "next"), h("pre", { id: "next" }, test.next), copyButton(test.next))
        : null,
      evidence(test),
      test.wrote && test.wrote.length
        ? h(
            "details",
            { open: red && test.wrote.join("").length < 6000 },
            h("summary", {}, "what ranks raised and wrote"),
            test.wrote.map((text) => h("pre", {}, text)),
          )
        : null,
      test.consequences.length
        ? h(
            "details",
            {},
            h("summary", {}, "what followed on other ranks"),
            h(
              "table",
              {},
              test.consequences.map(([who, text]) =>
                h("tr", {}, h("td", { class: "who" }, who), h("td", { class: "words" }, text)),
              ),
            ),
          )
        : null,
      h(
        "p",
        { class: "facts" },
        [
          link(test.receipt, "receipt"),
          link(test.flight, "flight records"),
          h("a", { href: "recording.jsonl" }, "recording"),
          h("a", { href: "trace.json" }, "trace for Perfetto"),
        ]
          .filter(Boolean)
          .flatMap((a, n) => [n ? " · " : "", a]),
      ),
    );
  }

  function evidence(test) {
    if (!test.evidence.length) return null;
    const rows = test.evidence.map(([at, rank, source, text]) =>
      h(
        "tr",
        { class: "jump", tabindex: 0, onclick: () => jump(at, rank) },
        h("td", { class: "time" }, at === null ? "" : relative(at, test)),
        h("td", { class: "who" }, rank === null ? "box" : "rank " + rank),
        h("td", { class: "who" }, source),
        h("td", { class: "words" }, text),
      ),
    );
    const more = test.evidence_left_out
      ? h("p", { class: "note" }, test.evidence_left_out + " more in the receipt")
      : null;
    return h(
      "details",
      { open: !test.green && rows.length <= 14, id: "evidence" },
      h("summary", {}, "evidence (" + rows.length + ")"),
      h("table", {}, rows),
      more,
    );
  }

  function jump(at, rank) {
    if (!lanes) return;
    if (at !== null) lanes.jump(at, rank);
    if (rank !== null) showDetail({ rank });
    else $("timeline").scrollIntoView({ block: "nearest" });
  }

  // -- the timeline ----------------------------------------------------------------------------------------------

  const find = h("input", {
    id: "find",
    type: "search",
    placeholder: "find: #412, all_reduce",
    "aria-label": "find in the timeline",
    autocomplete: "off",
  });
  const only = h("input", {
    id: "only",
    type: "search",
    placeholder: "ranks: 0,3-5",
    "aria-label": "show these ranks only",
    autocomplete: "off",
  });
  const hits = h("span", { id: "hits", role: "status" });
  const tabs = h("span", { role: "tablist" });
  const note = h("p", { class: "note", id: "left-out" });
  const elsewhere = h("p", { id: "elsewhere", role: "status" });

  function button(text, title, action) {
    return h("button", { type: "button", title, onclick: action }, text);
  }

  function buildTimeline() {
    $("timeline").replaceChildren(
      h(
        "div",
        { class: "bar" },
        tabs,
        button("test", "fit the test (0)", () => lanes.fitTest()),
        button("whole world", "fit the world (w)", () => lanes.fitWorld()),
        button("+", "zoom in (+)", () => lanes.zoom(0.6)),
        button("−", "zoom out (-)", () => lanes.zoom(1 / 0.6)),
        button("✗ next moment", "next death, failure, mismatch or act of the box (m)", () => lanes.stepMark(1)),
        h("span", { class: "grow" }),
        hits,
        find,
        only,
      ),
      elsewhere,
      h("div", { class: "scroll" }, canvas),
      h(
        "div",
        { class: "legend" },
        [
          ["wait", "waits for a peer"],
          ["collective", "in a collective until its last member came, or it was ended"],
          ["compile", "compiles"],
          ["phase", "phase of pytest"],
          ["step", "phase of the test"],
          ["group", "makes a group"],
          ["start", "starts"],
          ["collection", "collects"],
          ["cpu", "CPU, one core is full"],
        ].map(([kind, text]) => h("span", {}, h("i", { class: "fill-" + kind }), text)),
        h("span", {}, "✕ died · ◆ failed · ≠ another collective than the others · ▼ the box"),
      ),
      note,
    );
    const sayHits = () => {
      hits.textContent = lanes.found && !lanes.hasHit() ? "no hit" : "";
    };
    find.addEventListener("input", () => {
      lanes.found = finder(find.value);
      sayHits();
      lanes.draw();
    });
    find.addEventListener("keydown", (event) => {
      if (event.key === "Enter") lanes.stepHit(event.shiftKey ? -1 : 1);
    });
    only.addEventListener("input", () => {
      const ranks = ranksOf(only.value);
      lanes.filter = ranks.size ? ranks : null;
      lanes.layout();
      sayHits();
      lanes.draw();
    });
    lanes = new Lanes(data, canvas, showDetail, showTip, select);
    canvas.lanes = lanes; // for whoever looks at the page with the browser's own tools, such as tests
    new ResizeObserver(() => lanes.world && lanes.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => lanes.world && lanes.draw());
    addEventListener("beforeprint", () => {
      document.documentElement.classList.add("on-paper"); // the canvas is painted before the style is that of paper
      if (lanes.world) lanes.paint(1000);
    });
    addEventListener("afterprint", () => {
      document.documentElement.classList.remove("on-paper");
      if (lanes.world) lanes.draw();
    });
  }

  function finder(text) {
    const wanted = text.trim().toLowerCase(),
      number = /^#?(\d+)$/.exec(wanted);
    if (!wanted) return null;
    if (number) return (rank, lane, i) => lane.number[i] === +number[1];
    const hits = data.whats.map((what) => (what[0] + " " + what[1] + " " + what[2]).toLowerCase().includes(wanted));
    return (rank, lane, i) => hits[lane.what[i]];
  }

  function showWorlds(test) {
    const own = test ? test.attempts : [],
      items = [];
    if (own.length > 1)
      own.forEach((attempt, n) =>
        items.push([
          attempt === state.attempt,
          n + 1 + ": " + (attempt.purpose || "first") + ", " + attempt.code,
          () => select(test, attempt),
        ]),
      );
    else if (data.worlds.length > 1 && data.worlds.length <= 12)
      data.worlds.forEach((world, n) => items.push([n === state.world, "world " + world.name, () => showWorld(n)]));
    tabs.replaceChildren(
      ...items.map(([isOn, text, action]) =>
        h("button", { type: "button", role: "tab", "aria-selected": String(isOn), onclick: action }, text),
      ),
    );
    if (!own.length || own.length === 1)
      if (data.worlds.length > 12) {
        const choice = h(
          "select",
          { "aria-label": "world" },
          data.worlds.map((world, n) => h("option", { value: n, selected: n === state.world }, "world " + world.name)),
        );
        choice.addEventListener("change", () => showWorld(+choice.value));
        tabs.replaceChildren(choice);
      }
  }

  function showWorld(number) {
    const test = state.test,
      attempt = test && test.attempts.find((a) => a.world === number);
    state.world = number;
    $("detail").replaceChildren();
    present(test, attempt || null);
    if (!attempt) lanes.fitWorld();
  }

  const MOST_ELSEWHERE = 6;

  /** Says whose lanes these are where the verdict above is that of a test which did not run in this world. */
  function sayElsewhere(test, world) {
    elsewhere.hidden = !test || state.attempt !== null;
    if (elsewhere.hidden) return;
    const here = [...lanes.attempts()].sort(([a], [b]) => a.fine - b.fine || a.green - b.green);
    const shown = here.slice(0, MOST_ELSEWHERE).map(([other, attempt]) => {
      const name = other.nodeid.split("::").pop();
      return button(name + ": " + attempt.code, "its verdict and its lanes", () => select(other, attempt));
    });
    const more = here.length > shown.length ? "and " + (here.length - shown.length) + " more" : "";
    fill(
      elsewhere,
      "The test above did not run in world " + world.name + (shown.length ? ", which ran " : "."),
      ...shown.flatMap((one) => [one, " "]),
      more,
    );
  }

  function present(test, attempt) {
    const world = data.worlds[state.world];
    state.attempt = attempt;
    $("timeline").hidden = !world;
    if (!world) return;
    const decides = attempt && attempt.decides,
      here = test && attempt && decides;
    const blamed = new Set(attempt ? attempt.blamed : []);
    lanes.show(world, {
      test,
      attempt,
      blamed,
      waits: ((here && test.waits) || []).map((wait) => ({
        at_s: wait.at_s,
        span: wait.span,
        ranks: [...ranksOf(wait.list)],
        targets: [...ranksOf(wait.targets)].sort((a, b) => blamed.has(b) - blamed.has(a) || a - b),
      })),
      states: new Map(((here && test.states) || []).map(([, rank, text]) => [rank, text])),
    });
    showWorlds(test);
    sayElsewhere(test, world);
    canvas.setAttribute(
      "aria-label",
      "lanes of " +
        world.size +
        " ranks of world " +
        world.name +
        (attempt ? ", " + attempt.headline : "") +
        "; keys: ?",
    );
    note.textContent =
      (world.left_out
        ? world.left_out +
          " spans of this world are left out for their number: of each test " +
          "who waits for whom, the last collectives and the longest spans are kept. "
        : "") +
      (lanes.heat ? "Many ranks: a heat map, a row for each; name some in “ranks” to see their lanes. " : "") +
      "Drag to move, Ctrl and wheel to zoom, click for details, ? for keys.";
    if (attempt) lanes.fitTest();
    else lanes.fitWorld();
    lanes.paint();
    const scroll = canvas.parentElement,
      row = lanes.rows.find((r) => lanes.view.blamed.has(r.rank));
    scroll.scrollTop = row && row.y + row.h > scroll.clientHeight ? row.y - scroll.clientHeight / 2 : 0;
  }

  function select(test, attempt) {
    state.test = test;
    const chosen = attempt || test.attempts.find((a) => a.decides) || test.attempts[test.attempts.length - 1];
    state.world = chosen && chosen.world !== null ? chosen.world : data.worlds.length ? data.worlds.length - 1 : -1;
    verdict(test);
    $("detail").replaceChildren();
    present(test, chosen && chosen.world !== null ? chosen : null);
    for (const item of list.children) {
      const isIt = item.getAttribute("data-index") === String(test.index);
      item.setAttribute("aria-selected", String(isIt));
      if (isIt) item.scrollIntoView({ block: "nearest" });
    }
    reachable();
    try {
      history.replaceState(null, "", "#test=" + test.index);
    } catch (error) {
      /* a page in a frame may not */
    }
  }

  // -- what was chosen -------------------------------------------------------------------------------------------

  const WORDS = {
    start: "starts: fork, imports of torch and pytest",
    collection: "collects: imports the test files",
    phase: "phase of pytest",
    step: "phase of the test",
    compile: "compiles (from look to look)",
    group: "makes a process group",
    collective: "in a collective, until its last member came, or until something else ended it",
    wait: "waits for a peer that did not come",
  };

  function describe(rank, i) {
    const lane = lanes.lanes[rank],
      what = lane.what[i],
      [kind, name, group, test] = data.whats[what],
      [peers] = data.peers[lane.peers[i]];
    const [number, start, end] = [lane.number[i], lane.start[i], lane.end[i]];
    return { lane, what, kind, name, group, test, peers, number, start, end };
  }

  /** Whether all members of its group wait in the same as this wait. */
  function allWaitIn(wait) {
    const members = data.whats[wait.what][4];
    if (!wait.number || !members) return false;
    const isIn = (lane) => {
      for (let i = 0; i < lane.n; i++)
        if (lane.what[i] === wait.what && lane.number[i] === wait.number) return true;
      return false;
    };
    return lanes.lanes.filter(isIn).length === members;
  }

  function fact(name, value) {
    return value === null || value === undefined || value === ""
      ? null
      : h("tr", {}, h("td", { class: "who" }, name), h("td", { class: "words" }, value));
  }

  function spanDetail(rank, i) {
    const span = describe(rank, i),
      test = data.tests.find((t) => t.attempts.some((a) => a.number === span.test)),
      zero = lanes.zero;
    const length = span.end - span.start,
      late =
        span.kind === "collective" && span.peers
          ? named(span.peers) + " came last, " + seconds(length) + " later"
          : span.kind === "collective" && span.number
            ? "this rank, if it ended at all"
            : "";
    return [
      h("h2", {}, "rank " + rank + ": " + lanes.title(span.lane, i)),
      h(
        "table",
        {},
        fact("what", WORDS[span.kind]),
        fact(
          "operation",
          span.kind === "collective" || span.kind === "wait" || span.kind === "compile" ? span.name : "",
        ),
        fact(
          "number",
          span.number
            ? "#" + span.number + (span.group ? " of group " + span.group : "")
            : span.group
              ? "group " + span.group
              : "",
        ),
        fact(
          span.kind === "wait" ? "waits for" : "last to come",
          span.kind === "wait"
            ? span.peers
              ? named(span.peers)
              : allWaitIn(span)
                ? "nobody: all members came to it, and it did not end"
                : span.number
                  ? "nobody that is known: it did not end"
                  : "not recorded: only its stack shows that it waits"
            : late,
        ),
        fact(
          "from",
          (span.start - zero).toFixed(6) +
            " s, counted from " +
            (lanes.view.attempt ? "the test's start" : "the world's start"),
        ),
        fact("length", seconds(length)),
        fact("test", test ? test.nodeid : ""),
      ),
      together(rank, span),
    ];
  }

  /** Who came to the same collective, in order. */
  function together(rank, span) {
    if (!span.number) return null;
    const rows = [];
    lanes.lanes.forEach((lane, other) => {
      for (let i = 0; i < lane.n; i++) {
        if (lane.number[i] !== span.number) continue;
        const what = data.whats[lane.what[i]];
        if ((what[0] === "collective" || what[0] === "wait") && what[2] === span.group && what[3] === span.test)
          rows.push([lane.start[i], other, i, what[1]]);
      }
    });
    rows.sort((a, b) => a[0] - b[0]);
    const first = rows.length ? rows[0][0] : 0,
      shown = rows.length > 40 ? [...rows.slice(0, 20), ...rows.slice(-20)] : rows;
    return h(
      "details",
      { open: true },
      h("summary", {}, "who came to it, in order (" + rows.length + ")"),
      h(
        "table",
        {},
        shown.map(([at, other, i, name]) =>
          h(
            "tr",
            { class: "jump", tabindex: 0, onclick: () => lanes.reveal({ rank: other, i }) },
            h("td", { class: "time" }, "+" + seconds(at - first)),
            h("td", { class: "who" }, "rank " + other),
            h("td", { class: "words" }, name),
          ),
        ),
      ),
      rows.length > 40 ? h("p", { class: "note" }, rows.length - 40 + " ranks between them are left out") : null,
    );
  }

  /** Of the processes of a rank, the most that was seen in this world. */
  function memoryOf(rank) {
    const points = lanes.world.rank_memory[rank] || [];
    return points.length ? "at most " + Math.max(...points.map(([, of]) => of)).toFixed(2) + " GiB" : "";
  }

  /** Evidence, errors and logs are kept of the attempt that decides, and of no other. */
  function whereDetailsAre(test) {
    const n = test.attempts.findIndex((a) => a.decides),
      world = n < 0 ? undefined : data.worlds[test.attempts[n].world];
    if (n < 0) return "no details are kept of this test";
    const which = test.attempts.length > 1 ? "attempt " + (n + 1) + ", which decides" : "the test";
    return "details of ranks are those of " + which + (world ? ", in world " + world.name : "");
  }

  function rankDetail(rank) {
    const test = state.test,
      decides = test && state.attempt && state.attempt.decides,
      own = { ...lanes.world.ranks[rank], ...(decides && test.ranks ? test.ranks[rank] : {}) };
    const about = decides ? test.evidence.filter(([, r]) => r === rank) : [],
      st = lanes.view.states.get(rank);
    const parts = [
      h("h2", {}, "rank " + rank + (lanes.view.blamed.has(rank) ? ", which is blamed" : "") + (st ? ": " + st : "")),
    ];
    if (about.length)
      parts.push(
        h(
          "table",
          {},
          about.map(([at, , source, text]) =>
            h(
              "tr",
              {},
              h("td", { class: "time" }, at === null ? "" : relative(at, test)),
              h("td", { class: "who" }, source),
              h("td", { class: "words" }, text),
            ),
          ),
        ),
      );
    parts.push(
      h(
        "table",
        {},
        fact("device", own.device),
        fact("memory", memoryOf(rank)),
        fact("first forward", own.first_forward_s ? seconds(own.first_forward_s) : ""),
        fact("compiled", own.compiled),
        Object.entries(own.records || {}).map(([name, value]) => fact(name, value)),
      ),
    );
    for (const [name, title] of [
      ["error", "what it raised"],
      ["stack", "its stack when the box looked"],
      ["stderr", "the end of its stderr"],
      ["stdout", "the end of its stdout"],
    ])
      if (own[name])
        parts.push(h("details", { open: name !== "stdout" }, h("summary", {}, title), h("pre", {}, own[name])));
    for (const [cache, keys] of Object.entries(own.keys || {}))
      parts.push(
        h(
          "details",
          {},
          h("summary", {}, "graph keys: " + cache + " (" + keys.length + ")"),
          h("pre", {}, keys.join("\n")),
        ),
      );
    if (test && !decides) parts.push(h("p", { class: "note", id: "of-attempt" }, whereDetailsAre(test)));
    parts.push(test ? h("p", { class: "facts" }, link(test.receipt, "all of it in the receipt")) : null);
    return parts;
  }

  function showDetail(hit) {
    const box = $("detail");
    if (!hit) return box.replaceChildren();
    const parts = [];
    if (hit.mark)
      parts.push(
        h("h2", {}, (hit.mark[2] === null ? "the box" : "rank " + hit.mark[2]) + ": " + hit.mark[3]),
        h(
          "p",
          { class: "facts" },
          [hit.mark[1] + " at " + (hit.mark[0] - lanes.zero).toFixed(6) + " s", hit.mark[5], hit.mark[6]]
            .filter(Boolean)
            .join(" · "),
        ),
      );
    if (hit.i !== undefined) parts.push(...spanDetail(hit.rank, hit.i));
    if (hit.rank !== undefined) parts.push(...rankDetail(hit.rank));
    const close = button("×", "close (Esc)", () => lanes.choose(null));
    close.className = "close";
    box.replaceChildren(close, ...parts.filter(Boolean));
    if (lanes.rowOf.get(hit.rank)) keepInSight(lanes.rowOf.get(hit.rank), box);
  }

  /** Scrolls by as much as the details, which lie over the page, or the edge of the lanes hide of a row. */
  function keepInSight(row, box) {
    const scroll = canvas.parentElement;
    scroll.scrollTop = Math.min(row.y, Math.max(scroll.scrollTop, row.y + row.h - scroll.clientHeight));
    const bottom = canvas.getBoundingClientRect().top + row.y + row.h,
      hidden = bottom - box.getBoundingClientRect().top;
    if (hidden > 0 && bottom - row.h < innerHeight) scrollBy(0, hidden + 4);
  }

  function showTip(hit, x, y) {
    const tip = $("tip");
    let text = "";
    if (hit && hit.test) text = hit.test.nodeid + "\n" + hit.attempt.headline;
    else if (hit && hit.mark) text = hit.mark[3];
    else if (hit && hit.i !== undefined) {
      const span = describe(hit.rank, hit.i);
      text =
        "rank " +
        hit.rank +
        ": " +
        lanes.title(span.lane, hit.i) +
        "\n" +
        seconds(span.end - span.start) +
        (span.kind === "collective" && span.peers ? ", " + named(span.peers) + " came last" : "");
    }
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = Math.min(x + 12, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(y + 14, innerHeight - tip.offsetHeight - 8) + "px";
  }

  // -- keys ------------------------------------------------------------------------------------------------------

  const KEYS = [
    ["?", "these keys"],
    ["j k", "next, previous test"],
    ["e", "only failures"],
    ["/", "filter tests"],
    ["f", "find in the timeline (Enter: next hit)"],
    ["r", "show some ranks only"],
    ["+ -", "zoom"],
    ["← →", "move"],
    ["0", "fit the test"],
    ["w", "fit the world"],
    ["m M", "next, previous moment: death, failure, mismatch, act of the box"],
    ["n p", "next, previous span of the rank"],
    ["↑ ↓", "same time on the rank above, below"],
    ["z", "zoom to the chosen span"],
    ["[ ]", "previous, next attempt or world"],
    ["t", "back to the verdict"],
    ["Esc", "leave a field, close, choose nothing"],
  ];

  function help() {
    const dialog = $("help");
    if (!dialog.childNodes.length)
      dialog.append(
        h("h2", {}, "Keys"),
        h(
          "table",
          {},
          KEYS.map(([keys, text]) =>
            h(
              "tr",
              {},
              h(
                "td",
                { class: "who" },
                keys.split(" ").flatMap((key) => [h("kbd", {}, key), " "]),
              ),
              h("td", { class: "words" }, text),
            ),
          ),
        ),
        h(
          "p",
          { class: "note" },
          "Mouse: drag to move, Ctrl and wheel to zoom, Shift and wheel to move, click a span, a rank, a moment " +
            "or a test for details, double click to zoom to a span.",
        ),
        button("close", "Esc", () => dialog.close()),
      );
    dialog.showModal();
  }

  function nextTest(by) {
    const at = shownTests.indexOf(state.test),
      next = shownTests[at + by];
    if (next) select(next);
  }

  function nextTab(by) {
    const all = [...tabs.querySelectorAll("button")],
      at = all.findIndex((tab) => tab.getAttribute("aria-selected") === "true");
    if (all[at + by]) all[at + by].click();
    else if (tabs.querySelector("select") && data.worlds[state.world + by]) showWorld(state.world + by);
  }

  const ACTIONS = {
    "?": help,
    j: () => nextTest(1),
    k: () => nextTest(-1),
    e: toggleRed,
    "/": () => searchBox.focus(),
    f: () => find.focus(),
    r: () => only.focus(),
    "+": () => lanes.zoom(0.6),
    "=": () => lanes.zoom(0.6),
    "-": () => lanes.zoom(1 / 0.6),
    ArrowLeft: () => lanes.pan(-0.15),
    ArrowRight: () => lanes.pan(0.15),
    0: () => lanes.fitTest(),
    w: () => lanes.fitWorld(),
    m: () => lanes.stepMark(1),
    M: () => lanes.stepMark(-1),
    n: () => lanes.step(1),
    p: () => lanes.step(-1),
    ArrowUp: () => lanes.stepRank(-1),
    ArrowDown: () => lanes.stepRank(1),
    z: () => lanes.selected && lanes.selected.i !== undefined && lanes.fitSpan(lanes.selected),
    "[": () => nextTab(-1),
    "]": () => nextTab(1),
    t: () => $("top").scrollIntoView(),
    Escape: () => lanes.choose(null),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const field = event.target.closest && event.target.closest("input, select, textarea");
    if (field) {
      if (event.key === "Escape") {
        if (field.type === "search" && field.value) {
          field.value = ""; // as browsers do, but most without an event
          field.dispatchEvent(new Event("input"));
        }
        field.blur();
        canvas.focus({ preventScroll: true });
      }
      return;
    }
    if (event.key === "Enter" && event.target.matches && event.target.matches("tr.jump")) return event.target.click();
    const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    if (vertical && document.activeElement !== canvas) return; // the page scrolls
    const action = Object.prototype.hasOwnProperty.call(ACTIONS, event.key) ? ACTIONS[event.key] : null;
    if (!action || (!lanes.world && !["?", "j", "k", "e", "/"].includes(event.key))) return;
    event.preventDefault();
    action();
  });

  // -- start -----------------------------------------------------------------------------------------------------

  $("help-button").addEventListener("click", help);
  $("tests").append(searchBox, onlyRed, counted, list);
  buildTimeline();
  listTests();
  if (data.tests.length < 2) $("page").classList.add("alone");
  const asked = () => {
    const match = /^#test=(\d+)$/.exec(location.hash);
    return match && data.tests.find((test) => test.index === +match[1]);
  };
  addEventListener("hashchange", () => {
    const test = asked();
    if (test && test !== state.test) select(test);
  });
  const first = asked() || shownTests[0];
  if (first) select(first);
  else {
    $("verdict").replaceChildren(
      h("p", { class: "lead" }, "No test has a result."),
      data.run.problems.map((text) => h("pre", {}, text)),
    );
    if (data.run.problems.length) $("verdict").className = "red";
    state.world = data.worlds.length - 1;
    present(null, null);
  }
  $("plain").remove();
  document.documentElement.setAttribute("data-ready", "true");
})();
