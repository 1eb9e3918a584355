/* The planner's page: takes a question, shows the answer of /api/answer. It knows no law and computes no number; what it
 * formats itself are the positions of its sliders.
 *
 * State lives in the address (the command line's options by name). At most one question is under way; while it is, only
 * the newest of what follows is kept.
 */
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const form = $("question");
  const FIELDS = [
    "student", "device", "mfu", "price", "share_students", "max_teacher_params", "teacher_params", "max_teacher_tokens",
    "teacher_tokens", "max_student_tokens", "unique_tokens", "context", "vocab", "precision", "peak_flops", "seed", "law",
  ];
  const field = (name) => form.elements.namedItem(name);
  const KEPT = "distillscale-law:";
  const SLIDES = { flops: [12, 27], hours: [-2, 8], usd: [-1, 9] };
  let options = null;
  let config = null; // {name, content}
  const laws = new Map(); // id → content of an uploaded law, to be sent again where the server has forgotten it
  let shown = null; // the latest answer
  let shownFor = null; // and its question
  let fileTrouble = false; // what is wrong is a file; the answer below is still that to the question
  let figures = null;

  // ---- small things

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  const list = (target, sentences) => target.replaceChildren(...sentences.map((s) => make("li", s)));

  function fillTable(table, head, rows) {
    const top = make("tr");
    top.append(...head.map((name) => make("th", name, { scope: "col" })));
    const thead = make("thead");
    thead.append(top);
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr", null, row[0].startsWith(" ") ? { class: "sub" } : {});
      line.append(make("th", row[0].trim(), { scope: "row" }), ...row.slice(1).map((cell) => make("td", cell)));
      body.append(line);
    }
    table.replaceChildren(...(head.some(Boolean) ? [thead] : []), body);
  }

  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const count = { label: "", unit: "" };
  const flops = { label: "", unit: "FLOPs" };
  const short = (value, axis = count) => DistillCharts.written(value, axis, 3);
  const remember = (key, text) => { try { localStorage.setItem(key, text); } catch { /* full or forbidden: it stays in memory */ } };
  const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  // ---- the server

  class Refusal extends Error {
    constructor(status, body) {
      super(body.error || `the server answered ${status}`);
      this.status = status;
      this.field = body.field || null;
    }
  }

  async function call(path, body, { type = "application/json", signal, raw = false } = {}) {
    let response;
    try {
      response = await fetch(path, body === undefined ? {} : { method: "POST", headers: { "content-type": type }, body, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, { error: "The planner does not answer. Is `distillscale serve` still running?" });
    }
    const text = await response.text();
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      data = { error: `the server answered ${response.status} with something that is not JSON` };
    }
    if (!response.ok) throw new Refusal(response.status, data);
    return raw ? text : data;
  }

  // ---- the question

  const budgetText = () => {
    const amount = $("budget").value.trim();
    const unit = $("budget-unit").value;
    return !amount || unit === "flops" ? amount : unit === "usd" ? `${amount} USD` : `${amount} GPU-hours`;
  };

  function ownedRows() {
    return [...$("owned").tBodies[0].rows]
      .map((row) => Object.fromEntries([...row.querySelectorAll("input")].map((i) => [i.dataset.key, i.value.trim()])))
      .filter((row) => row.name || row.params || row.loss)
      .map((row) => Object.fromEntries(Object.entries(row).filter(([, value]) => value)));
  }

  /** Numbers in rows are numbers in a teachers.toml; counts may be text there too. What is not one goes as it is. */
  const asNumber = (text) => (/^[0-9.]+(e[+-]?[0-9]+)?$/i.test(text) ? Number(text) : text);

  /** The state as it goes into the address; only what differs from the defaults. */
  function state() {
    const out = {};
    for (const name of FIELDS) {
      const value = field(name).value.trim();
      if (value && !(name === "device" && value === options.defaults.device)) out[name] = value;
    }
    if (out.law === options.law) delete out.law;
    if (config) {
      delete out.student;
      out.config = JSON.stringify(config.content);
    }
    out.budget = budgetText();
    out.teacher = form.elements.teacher.value;
    if (form.elements.total_params.checked) out.total_params = "true";
    const rows = ownedRows();
    if (rows.length) out.owned = JSON.stringify(rows);
    return out;
  }

  function question() {
    const out = state();
    if (out.config) out.config = config.content;
    if (out.total_params) out.total_params = true;
    if (out.owned) {
      out.owned = ownedRows().map((row) => {
        const typed = { ...row };
        for (const key of ["loss", "usd_per_million_tokens"]) if (key in typed) typed[key] = asNumber(typed[key]);
        return typed;
      });
    }
    out.law = field("law").value;
    return out;
  }

  // ---- from the address

  /** `1e+21` typed into an address arrives as `1e 21`. */
  const mended = (text) => text.replace(/^(\s*[0-9.]+e) ([0-9]+)/i, "$1+$2");

  function restore() {
    const given = new URLSearchParams(location.search);
    const get = (name) => mended(given.get(name) || "");
    for (const name of FIELDS) {
      if (name === "law" || name === "student") continue;
      field(name).value = name === "device" ? get(name) || options.defaults.device : get(name);
      if (name === "device" && !field(name).value) field(name).value = options.defaults.device;
    }
    field("student").value = get("student") || "3B";
    config = null;
    if (given.get("config")) {
      try {
        setConfig("config.json", JSON.parse(given.get("config")));
      } catch {
        problem(new Refusal(422, { error: "The config.json in this link is not JSON; drop the file here again." }));
      }
    }
    showConfig();
    setBudget(get("budget") || "1e21");
    for (const radio of form.elements.teacher) radio.checked = radio.value === (get("teacher") || "inference");
    form.elements.total_params.checked = get("total_params") === "true";
    setOwned(readRows(given.get("owned")));
    setLaw(get("law") || options.law);
    if ([...given.keys()].some((name) => $("more").querySelector(`[name="${CSS.escape(name)}"]`))) $("more").open = true;
    slides();
  }

  function readRows(text) {
    try {
      const rows = JSON.parse(text || "[]");
      return Array.isArray(rows) ? rows.filter((row) => row && typeof row === "object") : [];
    } catch {
      return [];
    }
  }

  function setBudget(text) {
    const money = /^(?:US)?\$?\s*([0-9][^\s$]*)\s*(?:USD|dollars?)$|^(?:US)?\$\s*(\S+)$/i.exec(text);
    const hours = /^(\S+)\s*(?:([a-z][0-9a-z._]*?)[-\s])?(?:hours?|hrs?|h)$/i.exec(text);
    $("budget-unit").value = money ? "usd" : hours ? "hours" : "flops";
    $("budget").value = money ? money[1] || money[2] : hours ? hours[1] : text;
    const device = hours && hours[2] && options.devices.find((d) => d.name.toLowerCase() === hours[2].toLowerCase());
    if (device) field("device").value = device.name;
  }

  let addressTimer = 0;
  function writeAddress() {
    clearTimeout(addressTimer);
    addressTimer = setTimeout(() => history.replaceState(null, "", address()), 150);
  }

  const address = () => `${location.pathname}?${new URLSearchParams(state())}`;

  // ---- sliders

  /** A count as a slider places it; what it cannot read leaves the slider where it is. */
  function position(text) {
    const found = /^\s*(?:paper:)?([0-9._]+(?:e[+-]?[0-9]+)?)\s*([kmbgt])?\s*$/i.exec(text);
    if (!found) return null;
    const power = { k: 3, m: 6, b: 9, g: 9, t: 12 }[(found[2] || "").toLowerCase()] || 0;
    const value = Math.log10(Number(found[1].replaceAll("_", ""))) + power;
    return Number.isFinite(value) ? value : null;
  }

  function slides() {
    const unit = $("budget-unit").value;
    [$("budget-slide").min, $("budget-slide").max] = SLIDES[unit];
    for (const [input, slide] of [[$("student"), $("student-slide")], [$("budget"), $("budget-slide")]]) {
      const at = position(input.value);
      if (at !== null) slide.value = at;
      slide.setAttribute("aria-valuetext", input.value + (slide.id === "budget-slide" ? ` ${$("budget-unit").selectedOptions[0].text}` : ""));
    }
    const device = options.devices.find((d) => d.name === field("device").value);
    field("price").placeholder = device && device.usd_per_hour !== null ? String(device.usd_per_hour) : "none known";
  }

  $("student-slide").addEventListener("input", (event) => {
    $("student").value = short(10 ** Number(event.target.value));
    $("family").value = "";
    if (config) setConfig(null);
  });
  $("budget-slide").addEventListener("input", (event) => {
    const value = 10 ** Number(event.target.value);
    $("budget").value = $("budget-unit").value === "flops" ? short(value, flops) : String(Number(value.toPrecision(3)));
  });
  $("budget-unit").addEventListener("change", () => {
    // The same spending in the new unit, as the answer says; it is rounded, so the question is a new one.
    const unit = $("budget-unit").value;
    if (!shown) return;
    const side = shown.plan.distillation;
    const amount = { flops: shown.plan.budget_flops, hours: side.gpu_hours, usd: side.usd }[unit];
    if (amount) $("budget").value = unit === "flops" ? short(amount, flops) : String(Number(amount.toPrecision(3)));
  });
  $("family").addEventListener("change", () => {
    if ($("family").value) {
      $("student").value = `paper:${$("family").value}`;
      setConfig(null);
    }
  });

  // ---- files

  function setConfig(name, content) {
    config = name ? { name, content } : null;
    showConfig();
  }

  function showConfig() {
    $("config-shown").hidden = !config;
    $("student").disabled = $("student-slide").disabled = Boolean(config);
    if (!config) $("config-file").value = "";
    else $("config-shown").firstElementChild.textContent = `${config.name}${config.content.model_type ? ` (${config.content.model_type})` : ""}`;
    if (!config || !$("student").value.startsWith("paper:")) $("family").value = "";
  }

  $("config-drop").addEventListener("click", () => {
    setConfig(null);
    changed();
    $("student").focus();
  });

  const MOST = { config: 250_000, teachers: 250_000, law: 8_000_000, runs: 8_000_000 };

  /** Every file comes through here, from a field or dropped on the page. */
  async function take(file, kind) {
    try {
      const known = kind || guess(file, file.size < MOST.law ? await file.text() : "");
      if (file.size > MOST[known]) throw new Refusal(413, { error: `${file.name} is too large: a ${known} file may have ${MOST[known] / 1e6} MB.` });
      const text = await file.text();
      if (known === "config") {
        const content = parsed(file, text);
        await call("/api/config", JSON.stringify(content));
        setConfig(file.name, content);
      } else if (known === "law") await takeLaw(parsed(file, text));
      else if (known === "teachers") {
        setOwned((await call("/api/teachers-file", text, { type: "text/plain" })).owned);
        $("owned-box").open = true;
      } else return takeRuns(file);
      problem(null);
      changed();
    } catch (error) {
      problem(error, `${file.name}: `, true);
    }
    return null;
  }

  function parsed(file, text) {
    try {
      return JSON.parse(text);
    } catch {
      throw new Refusal(422, { error: "it is not JSON" });
    }
  }

  function guess(file, text) {
    if (/\.toml$/i.test(file.name)) return "teachers";
    if (/\.(csv|jsonl|ndjson)$/i.test(file.name)) return "runs";
    return /"(format|coefficients)"\s*:/.test(text) ? "law" : "config";
  }

  for (const [id, kind] of [["config-file", "config"], ["law-file", "law"], ["teachers-file", "teachers"], ["runs-file", "runs"]]) {
    $(id).addEventListener("change", (event) => {
      event.stopPropagation();
      if (event.target.files[0]) take(event.target.files[0], kind);
    });
  }
  let dragged = 0;
  const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragenter", (event) => carries(event) && document.body.classList.toggle("dropping", ++dragged > 0));
  addEventListener("dragleave", (event) => carries(event) && document.body.classList.toggle("dropping", --dragged > 0));
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    dragged = 0;
    document.body.classList.remove("dropping");
    [...event.dataTransfer.files].reduce((before, file) => before.then(() => take(file)), Promise.resolve());
  });

  // ---- laws

  function listLaws() {
    const known = options.laws.filter((law) => law.plans);
    field("law").replaceChildren(...known.map((law) => Object.assign(make("option", law.name), { value: law.id })));
  }

  async function takeLaw(content) {
    const law = await call("/api/laws", JSON.stringify(content));
    if (!law.plans) throw new Refusal(422, { error: `${law.name} is a ${law.form} law, which knows no teacher; a distillation law is needed` });
    laws.set(law.id, content);
    remember(KEPT + law.id, JSON.stringify(content));
    if (!options.laws.some((l) => l.id === law.id)) options.laws.unshift({ ...law, name: `${law.name} (yours)` });
    listLaws();
    setLaw(law.id);
    return law;
  }

  /** A law of a link may be an upload that this server does not have, or not any more. */
  function setLaw(id) {
    if (![...field("law").options].some((o) => o.value === id)) {
      field("law").append(Object.assign(make("option", id.startsWith("upload:") ? "an uploaded law" : id), { value: id }));
    }
    field("law").value = id;
    lawHint();
  }

  function lawHint() {
    const law = options.laws.find((l) => l.id === field("law").value);
    $("law-hint").textContent = law ? `${law.table}. ${law.caveats[0] || ""}` : "";
  }

  async function resend(id) {
    const text = laws.has(id) ? JSON.stringify(laws.get(id)) : recall(KEPT + id);
    if (!text) {
      throw new Refusal(404, { error: "This link refers to a law file that is not here. Drop that file on this page, or choose another law.", field: "law" });
    }
    const law = await takeLaw(JSON.parse(text));
    if (law.id !== id) throw new Refusal(404, { error: "The law file kept by this browser is another one; upload it again.", field: "law" });
  }

  // ---- teachers one owns

  const COLUMNS = [["name", "Name", ""], ["params", "Parameters", "7B"], ["loss", "Loss", "2.0"], ["usd_per_million_tokens", "USD per million tokens", ""]];

  function addRow(row = {}) {
    const body = $("owned").tBodies[0];
    const line = make("tr");
    const number = body.rows.length + 1;
    for (const [key, label, example] of COLUMNS) {
      const input = make("input", null, { "aria-label": `${label} of teacher ${number}`, "data-key": key, placeholder: example, spellcheck: "false" });
      input.value = row[key] === undefined ? "" : String(row[key]);
      const cell = make("td");
      cell.append(input);
      line.append(cell);
    }
    const remove = make("button", "×", { type: "button", "aria-label": `Remove teacher ${number}` });
    remove.addEventListener("click", () => {
      line.remove();
      $("owned-add").focus();
      changed();
    });
    const cell = make("td");
    cell.append(remove);
    line.append(cell);
    body.append(line);
    return line;
  }

  function setOwned(rows) {
    $("owned").tBodies[0].replaceChildren();
    rows.forEach(addRow);
    if (rows.length) $("owned-box").open = true;
    else addRow();
  }

  $("owned-add").addEventListener("click", () => addRow().querySelector("input").focus());

  // ---- asking

  let wanted = null;
  let asking = false;
  let late = 0;

  function changed() {
    slides();
    lawHint();
    writeAddress();
    wanted = performance.now();
    if (!asking) pump();
  }

  async function pump() {
    asking = true;
    $("answer").setAttribute("aria-busy", "true");
    late = setTimeout(() => $("verdict").classList.add("stale"), 400);
    while (wanted !== null) {
      const since = wanted;
      wanted = null;
      const body = question();
      try {
        let answer;
        try {
          answer = await call("/api/answer", JSON.stringify(body));
        } catch (error) {
          if (error.status !== 404 || error.field !== "law") throw error;
          await resend(body.law);
          answer = await call("/api/answer", JSON.stringify(body));
        }
        shownFor = body;
        show(answer);
        if (!fileTrouble) problem(null);
        $("answer").dataset.milliseconds = (performance.now() - since).toFixed(1);
        $("answer").dataset.answers = Number($("answer").dataset.answers || 0) + 1;
      } catch (error) {
        if (wanted === null) problem(error);
      }
    }
    clearTimeout(late);
    asking = false;
    $("answer").setAttribute("aria-busy", "false");
  }

  /** Say what is wrong and where; the answer before it stays, but faded and labelled. */
  function problem(error, before = "", file = false) {
    fileTrouble = Boolean(error) && file;
    for (const input of form.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-errormessage");
    }
    const box = $("problem");
    box.hidden = !error;
    for (const part of [$("rest"), $("verdict"), $("owned-verdict")]) part.classList.toggle("stale", Boolean(error) && !file);
    if (!error) {
      box.replaceChildren();
      return;
    }
    if (!(error instanceof Refusal)) console.error(error);
    const name = error.field === "owned" ? null : error.field;
    const input = name && (name === "budget" ? $("budget") : field(name));
    if (input instanceof HTMLElement) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-errormessage", "problem");
    }
    const more = shown && !file ? [make("p", "Below is the last answer that could be given, to another question.", { class: "hint" })] : [];
    box.replaceChildren(make("strong", before ? before + error.message : capital(error.message)), ...more);
    $("rest").hidden = !shown;
    if (!shown) $("verdict").replaceChildren(make("p", "No answer", { class: "headline" }));
    if (!file) $("bar").textContent = before ? before + error.message : capital(error.message);
    $("spoken").textContent = "";
  }

  form.addEventListener("input", (event) => {
    if (event.target.closest("#fit-box") || event.target.type === "file") return;
    if (fileTrouble) problem(null);
    if (event.target.id === "student" && $("family").value) $("family").value = "";
    changed();
  });
  form.addEventListener("change", (event) => {
    // Selects whose own listeners changed another field; others have been seen as input.
    if (["family", "budget-unit"].includes(event.target.id)) changed();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => {
    restore();
    changed();
  });

  // ---- the answer

  let spokenTimer = 0;

  function verdict(box, kind, headline, lines) {
    box.dataset.verdict = kind;
    box.replaceChildren(make("p", `${headline}.`, { class: "headline" }), ...lines.filter(Boolean).map((text) => make("p", text, { class: "why" })));
  }

  function show(answer) {
    shown = answer;
    const { plan, told, teachers } = answer;
    clearTimeout(late);
    $("verdict").classList.remove("stale");
    // Who owns teachers is answered for the best of them; the plan with the best conceivable one comes second.
    const first = teachers || { verdict: plan.verdict, headline: told.headline, gain: told.gain };
    const whose = teachers ? `With ${teachers.ranked[0].name}, the best of your teachers, at equal FLOPs: ` : "";
    verdict($("verdict"), first.verdict, first.headline, [capital(`${whose}${first.gain}.`)]);
    if (plan.warnings.length) {
      const read = make("a", `Read the ${plan.warnings.length === 1 ? "warning" : `${plan.warnings.length} warnings`}`, { href: "#warnings" });
      const line = make("p", null, { class: "why" });
      line.append(read);
      $("verdict").append(line);
    }
    $("bar").textContent = `${first.headline.split(":")[0]}. ${capital(first.gain.split(" (")[0])}.`;
    $("owned-verdict").hidden = !teachers;
    if (teachers) {
      verdict($("owned-verdict"), plan.verdict, `With the best teacher there could be: ${told.headline.toLowerCase()}`, [`${capital(told.gain)}. The plan below is that one.`]);
    }
    $("rest").hidden = false;
    showSplit(plan.distillation.shares);
    fillTable($("plan"), told.head, told.rows);
    $("bill").textContent = told.bill;
    $("ranking").hidden = !teachers;
    if (teachers) {
      fillTable($("ranked"), teachers.head, teachers.rows);
      list($("ranked-warnings"), teachers.warnings.map(capital));
    }
    list($("warnings"), plan.warnings.map(capital));
    list($("reasons"), plan.reasons.map(capital));
    fillTable($("even"), ["", ""], told.break_even);
    list($("even-notes"), told.break_even_notes.map(capital));
    showCommands(answer.commands);
    if (!figures) figures = ["figure-teacher", "figure-budget"].map((id, i) => DistillCharts.draw($(id), answer.charts[i]));
    else figures.forEach((figure, i) => figure.update(answer.charts[i]));
    clearTimeout(spokenTimer);
    spokenTimer = setTimeout(() => ($("spoken").textContent = `${first.headline}. ${whose}${first.gain}.`), 700);
  }

  const PURPOSES = [["student", "training the student", "--c1"], ["logits", "the teacher's outputs", "--c2"], ["teacher", "training the teacher", "--c3"]];

  function showSplit(shares) {
    const parts = PURPOSES.filter(([name]) => shares[name] > 0).map(([name, , colour]) => {
      const part = make("div");
      part.style.flexGrow = shares[name];
      part.style.background = `var(${colour})`;
      return part;
    });
    $("split").replaceChildren(...parts);
    $("split").setAttribute("aria-hidden", "true");
    const key = make("ul", null, { class: "split-key" });
    for (const [name, words, colour] of PURPOSES) {
      const item = make("li", `${(100 * shares[name]).toFixed(shares[name] > 0 && shares[name] < 0.01 ? 1 : 0)} % ${words}`);
      item.style.setProperty("--colour", `var(${colour})`);
      key.append(item);
    }
    const old = $("split").parentElement.querySelector(".split-key");
    if (old) old.replaceWith(key);
    else $("split").after(key);
  }

  function showCommands(commands) {
    const parts = [["On the command line", commands.cli], ["In Python", commands.python]];
    if (commands.teachers) parts.push(["Your teachers, on the command line", commands.teachers], ["teachers.toml", commands.teachers_toml]);
    if ($("commands").children.length === parts.length) {
      parts.forEach(([, text], i) => ($("commands").children[i].querySelector("code").textContent = text));
      return;
    }
    $("commands").replaceChildren(
      ...parts.map(([title, text]) => {
        const box = make("div", null, { class: "command" });
        const head = make("h3", title);
        const button = make("button", "Copy", { type: "button", "aria-label": `Copy: ${title}` });
        const code = make("code", text);
        button.addEventListener("click", () => copy(code.textContent, title));
        head.append(button);
        const pre = make("pre");
        pre.append(code);
        box.append(head, pre);
        return box;
      }),
    );
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      $("copied").textContent = `${what}: copied.`;
    } catch {
      $("copied").textContent = "This browser does not let the page copy; select the text instead.";
    }
    setTimeout(() => ($("copied").textContent = ""), 4000);
  }

  function save(name, type, text) {
    const link = make("a", null, { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  $("copy-link").addEventListener("click", () => copy(new URL(address(), location.href).href, "Link"));
  $("save-json").addEventListener("click", async () => {
    if (!shownFor) return;
    // The server's own text: numbers written here would be those of another printer.
    const { owned, ...asked } = shownFor;
    try {
      save("plan.json", "application/json", await call("/api/plan", JSON.stringify(asked), { raw: true }));
    } catch (error) {
      problem(error);
    }
  });
  $("save-csv").addEventListener("click", () => {
    if (!shown) return;
    const cell = (value) => (value === null || value === undefined ? "" : /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    const lines = [["figure", "series", "x_axis", "y_axis", "x", "y", "low", "high"]];
    for (const chart of shown.charts) {
      const axes = [chart.x, chart.y].map((axis) => (axis.unit ? `${axis.label}, ${axis.unit}` : axis.label));
      for (const s of chart.series) s.x.forEach((x, i) => lines.push([chart.name, s.name, ...axes, x, s.y[i], s.low[i], s.high[i]]));
    }
    save("curves.csv", "text/csv", lines.map((line) => line.map(cell).join(",") + "\n").join(""));
  });

  // ---- a law from one's own runs

  let runs = null;
  let fitting = null;

  function takeRuns(file) {
    runs = file;
    $("fit-box").open = true;
    $("fit-run").disabled = false;
    $("fit-state").textContent = `${file.name}, ${(file.size / 1000).toFixed(0)} kB`;
    if (document.activeElement !== $("runs-file")) $("fit-run").focus();
  }

  $("fit-run").addEventListener("click", async () => {
    if (!runs || fitting) return;
    const started = performance.now();
    fitting = new AbortController();
    const { signal } = fitting;
    const given = { law: $("fit-law").value, bootstrap: $("fit-bootstrap").value.trim(), cluster: $("fit-cluster").value.trim(), name: runs.name };
    const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value));
    $("fit-run").disabled = true;
    $("fit-stop").hidden = false;
    $("fit-result").hidden = true;
    $("fit-box").setAttribute("aria-busy", "true");
    const clock = () => ($("fit-state").textContent = `fitting … ${((performance.now() - started) / 1000).toFixed(0)} s (ends at 120 s)`);
    clock();
    const ticking = setInterval(clock, 1000);
    try {
      const type = /\.(jsonl|ndjson)$/i.test(runs.name) ? "application/x-ndjson" : "text/csv";
      const found = await call(`/api/fit?${query}`, runs, { type, signal });
      $("fit-state").textContent = `done in ${((performance.now() - started) / 1000).toFixed(1)} s`;
      showFit(found);
    } catch (error) {
      $("fit-state").textContent = error.name === "AbortError" ? "cancelled" : "not fitted";
      if (error.name !== "AbortError") {
        $("fit-result").hidden = false;
        $("fit-result").replaceChildren(make("p", capital(error.message), { class: "failed", role: "alert" }));
      }
    } finally {
      clearInterval(ticking);
      fitting = null;
      $("fit-run").disabled = false;
      $("fit-stop").hidden = true;
      $("fit-box").removeAttribute("aria-busy");
    }
  });
  $("fit-stop").addEventListener("click", () => fitting && fitting.abort());

  function showFit({ fit, law, chart }) {
    const box = $("fit-result");
    box.hidden = false;
    const parts = [make("h3", `${capital(fit.law)}, ${fit.rows} runs: ${fit.outcome}`)];
    if (fit.reason) parts.push(make("p", capital(fit.reason)));
    const held = fit.held_out;
    const proof = fit.certificate;
    const digits = (x, n = 4) => {
      if (x === null || x === undefined) return "none";
      const size = Math.abs(x);
      return x !== 0 && (size >= 1e6 || size < 1e-3) ? x.toExponential(n - 1).replace("e+", "e") : String(Number(x.toPrecision(n)));
    };
    parts.push(make("p", held
      ? `Held out (${held.rule}): ${held.rows} runs, rmse ${digits(held.rmse, 3)} nats, worst ${(100 * held.max_relative_error).toFixed(2)} %.`
      : "Held out: none could be scored; see the warnings."));
    if (proof) {
      parts.push(make("p", `Certificate: gradient ${digits(proof.gradient_norm, 2)}, smallest curvature ${digits(proof.min_eigenvalue, 2)}, ${proof.starts_agreeing} of ${proof.starts} starts agree.`));
    }
    const table = make("table");
    const rows = Object.entries(fit.coefficients).map(([name, value]) => {
      const ends = fit.intervals[name];
      const known = fit.identified[name];
      return [name, digits(value, 5), ends ? `${digits(ends[0])} to ${digits(ends[1])}` : "none", known === undefined ? "" : known ? "yes" : "no"];
    });
    fillTable(table, ["", "value", "90 % interval", "identified"], rows);
    const scroll = make("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Coefficients" });
    scroll.append(table);
    parts.push(scroll);
    if (fit.warnings.length) {
      const warnings = make("ul", null, { class: "warnings" });
      list(warnings, fit.warnings.map(capital));
      parts.push(warnings);
    }
    const buttons = make("p", null, { class: "buttons" });
    if (law) {
      const keep = make("button", "Save law.json", { type: "button" });
      keep.addEventListener("click", () => save("law.json", "application/json", `${JSON.stringify(law, null, 2)}\n`));
      buttons.append(keep);
      if (fit.law === "distillation") {
        const use = make("button", "Plan with this law", { type: "button" });
        use.addEventListener("click", () =>
          takeLaw(law).then(() => {
            changed();
            $("answer").focus();
          }, problem),
        );
        buttons.prepend(use);
      }
    } else buttons.append(make("span", "The fit is not usable, so there is no law to plan with."));
    parts.push(buttons);
    const figure = make("figure");
    if (chart) parts.push(figure);
    box.replaceChildren(...parts);
    if (chart) DistillCharts.draw(figure, chart, { height: 260 });
  }

  // ---- the beginning

  const theme = recall("distillscale-theme") || "";
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").value = theme;
  $("theme").addEventListener("change", () => {
    const value = $("theme").value;
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    remember("distillscale-theme", value);
  });

  call("/api/options").then(
    (found) => {
      options = found;
      field("device").replaceChildren(...options.devices.map((d) => make("option", d.name, { value: d.name, title: d.title })));
      $("family").append(...options.family.map((name) => make("option", name, { value: name })));
      listLaws();
      restore();
      changed();
    },
    (error) => problem(error),
  );
})();
