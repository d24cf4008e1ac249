// Draws what /api/events sends. Every text goes in as text: names of files, programs and mounts are chosen by strangers.
"use strict";

const SPAN = 600; // seconds that the curves show
const SILENCE = 10000; // milliseconds after which a look is out of date
const byId = (id) => document.getElementById(id);
let points = [];
let shown = 0; // when the last look was drawn

// --- making elements -----------------------------------------------------------------------------------------------

function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children);
  return children.length;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "N/A";
  let value = bytes, unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${unit === "B" || value >= 100 ? Math.round(value) : value.toFixed(1)} ${unit}`;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [unit, name, smaller, smallerName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole < unit) continue;
    const rest = Math.floor((whole % unit) / smaller);
    return `${Math.floor(whole / unit)} ${name}` + (rest ? ` ${rest} ${smallerName}` : "");
  }
  return `${whole} s`;
}

const known = (value) => value !== null && value !== undefined;

function bar(ratio, label, kind = "") {
  const width = Math.min(Math.max(ratio ?? 0, 0), 1) * 100;
  const level = kind === "second" ? "" : ratio >= 0.97 ? " brim" : ratio >= 0.9 ? " full" : "";
  const inner = make("i");
  inner.style.width = `${width}%`;
  const outer = make("div", `bar ${kind}${level}`, inner);
  outer.setAttribute("role", "meter");
  outer.setAttribute("aria-label", label);
  outer.setAttribute("aria-valuemin", 0);
  outer.setAttribute("aria-valuemax", 100);
  if (known(ratio)) outer.setAttribute("aria-valuenow", Math.round(width));
  else outer.setAttribute("aria-valuetext", "not known");
  return outer;
}

function percent(ratio) {
  const number = make("span", "big", known(ratio) ? `${Math.round(ratio * 100)}` : "–");
  number.append(make("small", "", known(ratio) ? "%" : "N/A"));
  return number;
}

// --- curves --------------------------------------------------------------------------------------------------------

function shape(tag, name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (name) element.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Runs of known values, so that a gap stays a gap.
function runs(value) {
  const end = points.length ? points[points.length - 1].time : 0;
  const found = [[]];
  for (const point of points) {
    const y = value(point);
    if (point.time < end - SPAN) continue;
    if (known(y)) found[found.length - 1].push([SPAN - (end - point.time), 40 - 38 * Math.min(Math.max(y, 0), 1)]);
    else if (found[found.length - 1].length) found.push([]);
  }
  return found.filter((run) => run.length);
}

const path = (run) => run.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function curve(label, first, second) {
  const svg = shape("svg", "curve", { viewBox: `0 0 ${SPAN} 42`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  const title = shape("title", "", {});
  title.textContent = label;
  svg.append(title, shape("path", "base", { d: `M0 41H${SPAN}` }));
  for (const run of runs(first)) {
    const [left, right] = [run[0][0].toFixed(1), run[run.length - 1][0].toFixed(1)];
    svg.append(shape("path", "area", { d: `${path(run)}L${right} 41L${left} 41Z` }), shape("path", "line", { d: path(run) }));
  }
  if (second) for (const run of runs(second)) svg.append(shape("path", "second", { d: path(run) }));
  return svg;
}

// --- parts of the page ---------------------------------------------------------------------------------------------

function facts(texts) {
  return make("div", "facts", ...texts.filter(Boolean).map((text) => make("span", "", text)));
}

function row(left, right) {
  return make("div", "row", make("span", "", left), make("span", "", right));
}

function gpuCard(gpu) {
  const key = gpu.uuid ?? String(gpu.index);
  const head = make("h3", "", gpu.name ?? "GPU", make("small", "", `GPU ${gpu.index}`));
  if (gpu.error) return make("article", "card gauge", make("header", "", head), make("p", "trouble", gpu.error.message));
  const { used_bytes: used, total_bytes: total, unified } = gpu.memory;
  const ratio = known(used) && total ? used / total : null;
  const card = make(
    "article", "card gauge", make("header", "", head, percent(gpu.utilization)),
    curve(`GPU ${gpu.index}: busy and memory, the last ten minutes`, (point) => point.gpu[key], (point) => point.gpu_memory[key]),
    row(unified ? "Memory, shared with the host" : "Memory", `${size(used)} of ${size(total)}`), bar(ratio, `Memory of GPU ${gpu.index}`, "second"),
    facts(gpuFacts(gpu)),
  );
  if (gpu.throttle && gpu.throttle.length) card.append(make("p", "hint", `slowed by ${gpu.throttle.join(", ").replaceAll("_", " ")}`));
  const troubles = gpuTroubles(gpu);
  if (troubles.length) card.append(make("p", "trouble", troubles.join(" · ")));
  if (gpu.mig.length) card.append(make("div", "slices", ...gpu.mig.map(slice)));
  return card;
}

function gpuFacts(gpu) {
  const facts = [];
  if (known(gpu.temperature_c)) facts.push(`${gpu.temperature_c} °C`);
  if (known(gpu.power_w)) facts.push(`${Math.round(gpu.power_w)} W` + (known(gpu.power_limit_w) ? ` of ${Math.round(gpu.power_limit_w)}` : ""));
  if (known(gpu.sm_mhz)) facts.push(`${gpu.sm_mhz} MHz`);
  if (known(gpu.fan)) facts.push(`fan ${Math.round(gpu.fan * 100)} %`);
  return facts;
}

function gpuTroubles(gpu) {
  const troubles = [];
  if (gpu.ecc_uncorrected) troubles.push(`${gpu.ecc_uncorrected} uncorrected memory error${gpu.ecc_uncorrected === 1 ? "" : "s"}`);
  if (gpu.remap_failed) troubles.push("a memory row could not be remapped: have the card replaced");
  else if (gpu.remap_pending) troubles.push("memory rows wait to be remapped: reset the card");
  return troubles;
}

function slice(part) {
  if (part.error) return make("p", "trouble", `MIG ${part.index}: ${part.error.message}`);
  const { used_bytes: used, total_bytes: total } = part.memory;
  const busy = known(part.utilization) ? `${Math.round(part.utilization * 100)} % busy · ` : "";
  return make("div", "", row(`MIG ${part.index} · ${part.profile ?? part.name ?? ""}`, `${busy}${size(used)} of ${size(total)}`),
    bar(known(used) && total ? used / total : null, `Memory of slice ${part.index}`, "second"));
}

function drawGpus(specs) {
  fill(byId("gpus"), ...specs.gpus.map(gpuCard));
  const note = byId("gpu-note");
  note.hidden = specs.gpus.length > 0;
  if (specs.gpu_error) note.textContent = `No GPU is seen. ${specs.gpu_error.message}`;
  else note.textContent = "No GPU is seen. The driver is loaded, but it shows no card.";
  const others = specs.accelerators.map((one) => `${one.name} (${one.device})`);
  if (others.length) note.textContent += ` Other accelerators: ${others.join(", ")}.`;
}

function drawMachine(look) {
  const { cpu, memory, cgroup } = look.specs, own = look.own;
  const used = own.memory_total_bytes - own.memory_available_bytes;
  const cores = own.cores_limited ? `${Number(own.cores.toFixed(2))} of ${cpu.threads} cores, by the container's limit` : `${cpu.threads} threads`;
  const inUse = own.cores_limited && known(cgroup.used_cores) ? `${cgroup.used_cores.toFixed(2)} cores in use` : "";
  const processor = make("article", "card gauge",
    make("header", "", make("h3", "", "Processor"), percent(own.cpu)),
    curve("Processor: busy, the last ten minutes", (point) => point.cpu),
    facts([cpu.model, cores, inUse, `load ${cpu.load.map((one) => one.toFixed(2)).join(" ")}`]));
  const limit = own.memory_limited ? `limit of the container; the host has ${size(memory.total_bytes)}` : "";
  const swap = memory.swap_total_bytes ? `swap ${size(memory.swap_total_bytes - memory.swap_free_bytes)} of ${size(memory.swap_total_bytes)}` : "no swap";
  const ram = make("article", "card gauge",
    make("header", "", make("h3", "", "Memory"), percent(used / own.memory_total_bytes)),
    curve("Memory: used, the last ten minutes", (point) => point.memory),
    row(`${size(used)} of ${size(own.memory_total_bytes)}`, `${size(own.memory_available_bytes)} available`),
    bar(used / own.memory_total_bytes, "Memory"),
    facts([limit, swap]));
  fill(byId("machine"), processor, ram);
}

function drawDisks(specs) {
  const items = specs.disks.map((disk) => {
    const kind = disk.kind === "local" || disk.fstype.startsWith(disk.kind) ? disk.fstype : `${disk.fstype}, ${disk.kind}`;
    const name = make("span", "", make("strong", "", disk.mount), make("span", "soft", `  ${kind}`));
    if (!known(disk.total_bytes)) return make("div", "item", name, make("p", "trouble", disk.error ?? "not known"));
    return make("div", "item", row(name, `${size(disk.available_bytes)} free of ${size(disk.total_bytes)}`),
      bar(disk.used_bytes / disk.total_bytes, `Disk ${disk.mount}`));
  });
  section("disks", items);
}

// The frameworks that the agent's own Python holds; of torch also what it was built for.
function drawPackages({ python }) {
  const items = Object.entries(python.packages).map(([name, version]) => {
    const built = name === "torch" ? (python.torch_cuda ? `  for CUDA ${python.torch_cuda}` : "  for CPUs") : "";
    return make("div", "item", row(make("span", "", make("strong", "", name), make("span", "soft", built)), version));
  });
  section("packages", items);
}

function section(id, items) {
  byId(id).hidden = items.length === 0;
  fill(byId(id).querySelector("div"), ...items);
}

function drawDrive(look) {
  const items = look.specs.drive.mounts.map((mount) => {
    const item = make("div", "item", row(make("strong", "", mount.mount), mount.account ?? ""));
    if (mount.error) {
      item.append(make("p", "trouble", mount.error));
      return item;
    }
    const waiting = mount.pending_files
      ? `${mount.pending_files} file${mount.pending_files === 1 ? "" : "s"} to upload, ${size(mount.pending_bytes)}` : "everything is on Drive";
    const cache = known(mount.cache_limit_bytes) ? `cache ${size(mount.cache_bytes)} of ${size(mount.cache_limit_bytes)}` : `cache ${size(mount.cache_bytes)}`;
    item.append(row(waiting, cache));
    const files = look.unsent.filter((one) => one.mount === mount.mount);
    if (files.length) item.append(unsentList(files, mount.pending_files));
    return item;
  });
  if (look.specs.drive.error) items.push(make("p", "trouble", look.specs.drive.error));
  section("drive", items);
}

function unsentList(files, count) {
  const cells = files.slice(0, 8).flatMap((one) => [
    make("span", "", one.path, make("span", "soft", `  ${one.reason}`)), make("span", "", `${size(one.size)} · ${span(one.age)}`)]);
  const more = count - Math.min(files.length, 8);
  if (more > 0) cells.push(make("span", "soft", `and ${more} more`), make("span", "", ""));
  return make("div", "unsent", ...cells);
}

function drawProcesses(specs) {
  const rows = specs.gpus.flatMap((gpu) => (gpu.processes ?? []).map((one) => {
    const what = make("td", "", one.name === null ? "not of this container" : one.command || one.name);
    what.title = one.command ?? "";
    return make("tr", "", make("td", "", String(gpu.index)), make("td", "", String(one.pid)), make("td", "user", one.user ?? ""), what, make("td", "", size(one.used_bytes)));
  }));
  const head = [["narrow", "GPU"], ["middle", "Process"], ["middle user", "User"], ["", "Program"], ["middle", "Memory"]];
  const table = make("table", "", make("thead", "", make("tr", "", ...head.map(([name, text]) => make("th", name, text)))), make("tbody", "", ...rows));
  section("processes", rows.length ? [table] : []);
}

function drawVerdict(look) {
  const { safe, why } = look.verdict;
  const [name, mark, head] = safe === true ? ["yes", "✓", "Safe to power off"]
    : safe === false ? ["no", "↑", "Not yet safe to power off"] : ["unknown", "?", "Not known whether it is safe to power off"];
  byId("verdict").className = `card ${name}`;
  byId("verdict-mark").textContent = mark;
  byId("verdict-head").textContent = head;
  byId("verdict-why").textContent = why[0].toUpperCase() + why.slice(1);
  const facts = sessionFacts(look);
  fill(byId("session"), ...facts.map(([term, text]) => make("div", "", make("dt", "", term), make("dd", "", text))));
}

function sessionFacts(look) {
  const { hold_until: hold, lease_end: lease, report } = look.session, now = look.time;
  const facts = [];
  if (known(look.specs.host.uptime_seconds)) facts.push(["Up for", span(look.specs.host.uptime_seconds)]);
  if (known(hold) && hold > now) facts.push(["Held for", span(hold - now)]);
  if (known(lease)) facts.push(["Lease", lease > now ? `ends in ${span(lease - now)}` : "has ended"]);
  if (report && report.notice) facts.push(["Being taken back", report.notice.text]);
  if (report && known(report.stop_at)) facts.push(["Stops", `in ${span(report.stop_at - now)}`]);
  return facts;
}

function drawIdle(look) {
  const { report, error } = look.session;
  const items = error ? [make("p", "trouble", error)] : [];
  if (report) {
    const marks = { true: ["✓", "idle-yes"], false: ["●", "idle-no"], null: ["?", "idle-unknown"] };
    const told = report.age_seconds > 90 ? make("p", "trouble", `The guard last told of itself ${span(report.age_seconds)} ago.`)
      : make("p", "soft", known(report.idle_seconds) ? `Nothing has kept the box busy for ${span(report.idle_seconds)}.` : "Something keeps the box busy.");
    const list = make("ul", "findings", ...report.findings.map((one) => {
      const [mark, name] = marks[String(one.idle)];
      return make("li", "", make("span", name, mark), make("span", "", one.probe), make("span", "", one.text));
    }));
    items.push(told, list);
  }
  section("idle", items);
}

function drawHead(look) {
  const { host, gpu_driver: driver, python } = look.specs;
  document.title = `${look.verdict.safe === true ? "" : "● "}${host.hostname}`;
  byId("name").textContent = host.hostname;
  const place = [host.virtualization && `on ${host.virtualization}`, host.container && `in ${host.container}`].filter(Boolean).join(" ");
  byId("about").textContent = [host.cloud, host.product, host.os, host.kernel, place].filter(Boolean).join(" · ");
  const versions = [`Python ${python.version}`];
  if (driver.version) versions.push(`NVIDIA ${driver.version}`, `CUDA up to ${driver.cuda ?? "N/A"}`);
  byId("versions").textContent = versions.join(" · ");
}

function draw(look) {
  shown = Date.now();
  drawHead(look);
  drawVerdict(look);
  drawGpus(look.specs);
  drawMachine(look);
  drawDrive(look);
  drawDisks(look.specs);
  drawPackages(look.specs);
  drawProcesses(look.specs);
  drawIdle(look);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
}

// --- the stream ----------------------------------------------------------------------------------------------------

function tell(name, text) {
  byId("live").className = name;
  byId("live-text").textContent = text;
}

function remember(point) {
  if (points.length && point.time <= points[points.length - 1].time) return;
  points.push(point);
  while (points.length && points[0].time < point.time - SPAN) points.shift();
}

function pointOf(look) {
  const { specs, own } = look;
  const ratio = (gpu) => (known(gpu.memory.used_bytes) && gpu.memory.total_bytes ? gpu.memory.used_bytes / gpu.memory.total_bytes : null);
  const by = (value) => Object.fromEntries(specs.gpus.map((gpu) => [gpu.uuid ?? String(gpu.index), value(gpu)]));
  return { time: look.time, cpu: own.cpu, memory: 1 - own.memory_available_bytes / own.memory_total_bytes,
    gpu: by((gpu) => gpu.utilization), gpu_memory: by(ratio) };
}

// What was true at the last look must not stand there as if it were now: somebody may switch the box off by it.
function doubt() {
  if (!shown) return;
  byId("verdict").className = "card unknown";
  byId("verdict-mark").textContent = "?";
  byId("verdict-head").textContent = "Not known whether it is safe to power off";
  byId("verdict-why").textContent = `The agent has not answered for ${span((Date.now() - shown) / 1000)}`;
  document.title = `● ${byId("name").textContent}`;
}

function listen() {
  const stream = new EventSource("api/events");
  stream.addEventListener("history", (event) => { points = JSON.parse(event.data); });
  stream.addEventListener("look", (event) => {
    const look = JSON.parse(event.data);
    remember(pointOf(look));
    draw(look);
    tell("on", "live");
  });
  stream.onerror = () => {
    doubt();
    if (stream.readyState === EventSource.CLOSED) tell("off", "refused: open the address that `drivefs-agent url` prints");
    else tell("off", shown ? `no answer for ${span((Date.now() - shown) / 1000)}; trying again` : "no answer; trying again");
  };
}

// The token has done its work: it must not stay in the address bar, nor in what is bookmarked or copied from it.
if (location.search) history.replaceState(null, "", location.pathname);
setInterval(() => { if (Date.now() - shown > SILENCE) doubt(); }, 2000);
listen();
