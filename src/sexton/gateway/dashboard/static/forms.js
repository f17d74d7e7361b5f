// Forms: filters that act at once, a tool that is tried, a job that is written.
import { ask, Refused, tellFailure, toast } from "./api.js";

export function offerForms() {
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("form.try, form.answer")) {
      event.preventDefault();
      event.target.matches(".try") ? tryTool(event.target) : answerQuestion(event.target);
    }
  });
  const job = document.getElementById("job-form");
  if (job) offerJobForm(job);
}

// A tool

class BadField extends Error {
  constructor(field, text) {
    super(text);
    this.field = field;
  }
}

async function tryTool(form) {
  const send = form.querySelector("button.primary");
  const cancel = form.querySelector("[data-cancel]");
  const took = form.querySelector(".took");
  clearMarks(form);
  let args;
  try {
    args = argumentsOf(form);
  } catch (error) {
    if (!(error instanceof BadField)) throw error;
    mark(error.field, error.message);
    return;
  }
  const ending = new AbortController();
  cancel.hidden = false;
  cancel.onclick = () => ending.abort();
  send.disabled = true;
  took.textContent = "under way …";
  try {
    const body = { server: form.dataset.server, tool: form.dataset.tool, arguments: args };
    const answer = await ask("POST", "/api/v1/calls", body, { signal: ending.signal });
    took.textContent = `${answer.is_error ? "the tool says that it failed" : "done"}, ${answer.seconds.toFixed(2)} s`;
    showResult(form, answer.text, answer, answer.is_error);
  } catch (error) {
    took.textContent = error.name === "AbortError" ? "cancelled" : "failed";
    if (error instanceof Refused) showResult(form, [error.message, error.hint].filter(Boolean).join("\n"), null, true);
    else tellFailure(error);
  } finally {
    cancel.hidden = true;
    send.disabled = false;
  }
}

// What a server asks a person

async function answerQuestion(form) {
  const send = form.querySelector("button.primary");
  clearMarks(form);
  try {
    const content = argumentsOf(form);
    send.disabled = true;
    await ask("POST", `/api/v1/approvals/${encodeURIComponent(form.dataset.approval)}`, { yes: true, content });
    toast(form.dataset.done);
  } catch (error) {
    if (error instanceof BadField) mark(error.field, error.message);
    else tellFailure(error);
  } finally {
    send.disabled = false;
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
  }
}

function showResult(form, text, whole, bad) {
  const place = form.querySelector(".result");
  place.hidden = false;
  place.classList.toggle("bad", bad);
  place.querySelector("pre").textContent = text || "(no text)";
  place.querySelector("details").hidden = whole === null;
  place.querySelector(".whole").textContent = whole === null ? "" : JSON.stringify(whole, null, 2);
}

function argumentsOf(form) {
  const args = {};
  for (const field of form.querySelectorAll("[data-path]")) {
    const value = valueOf(field);
    if (value !== undefined) put(args, JSON.parse(field.dataset.path), value);
  }
  return args;
}

function put(target, path, value) {
  for (const part of path.slice(0, -1)) target = target[part] ??= {};
  Object.defineProperty(target, path.at(-1), { value, enumerable: true, configurable: true, writable: true });
}

function valueOf(field) {
  const text = field.value;
  if (field.dataset.kind === "text" && field.required && field.closest("form.try")) return text; // an empty text is one, too
  if (text.trim() === "") {
    if (field.required) throw new BadField(field, "This is needed.");
    return undefined;
  }
  switch (field.dataset.kind) {
    case "number":
      return number(field, text);
    case "lines":
      return text.split("\n").filter((line) => line !== "").map((line) => (field.dataset.items === "text" ? line : number(field, line)));
    case "json":
      return json(field, text);
    default:
      return text;
  }
}

function number(field, text) {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new BadField(field, "This is not a number.");
  if (field.min && value < Number(field.min)) throw new BadField(field, `At least ${field.min}.`);
  if (field.max && value > Number(field.max)) throw new BadField(field, `At most ${field.max}.`);
  return value;
}

function json(field, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new BadField(field, `This is not JSON: ${error.message}`);
  }
}

// A job

function offerJobForm(form) {
  const arrange = () => {
    for (const part of form.querySelectorAll("[data-when]")) {
      const [name, value] = part.dataset.when.split("=");
      part.hidden = form.elements[name].value !== value;
    }
    offerTools(form);
  };
  niceUnit(form);
  localInstant(form);
  form.addEventListener("input", () => {
    arrange();
    preview(form);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    saveJob(form);
  });
  arrange();
  preview(form);
}

function offerTools(form) {
  const server = form.elements.server?.value ?? "";
  const known = form.querySelector(`datalist[data-tools="${CSS.escape(server)}"]`);
  form.querySelector("#tool-names").replaceChildren(...[...(known?.options ?? [])].map((one) => one.cloneNode()));
}

function niceUnit(form) {
  const seconds = Number(form.elements.every.value);
  const unit = [86400, 3600, 60].find((one) => seconds >= one && seconds % one === 0) ?? 1;
  form.elements.unit.value = String(unit);
  form.elements.every.value = String(seconds / unit);
}

function localInstant(form) {
  const { instant } = form.elements.at.dataset;
  const time = instant ? new Date(instant) : new Date(Date.now() + 3600_000);
  const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000);
  form.elements.at.value = local.toISOString().slice(0, 19);
}

function scheduleOf(form) {
  const { when, every, unit, cron, at } = form.elements;
  switch (when.value) {
    case "every":
      return { every: number(every, every.value) * Number(unit.value) };
    case "cron":
      return { cron: cron.value.trim() };
    case "at": {
      const time = new Date(at.value);
      if (Number.isNaN(time.getTime())) throw new BadField(at, "This is not a time.");
      return { at: time.toISOString() };
    }
    default:
      return null;
  }
}

function zoneOf(form) {
  return form.elements.when.value === "cron" ? form.elements.timezone.value.trim() || "UTC" : "UTC";
}

const WRITTEN = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
let waiting = null;
let asked = 0;

function preview(form) {
  clearTimeout(waiting);
  waiting = setTimeout(() => showPreview(form), 250);
}

async function showPreview(form) {
  const place = document.getElementById("preview");
  const number_ = ++asked;
  let text = "";
  let times = [];
  try {
    const schedule = scheduleOf(form);
    if (schedule) times = (await ask("GET", `/api/v1/schedules/next?${new URLSearchParams({ ...schedule, timezone: zoneOf(form) })}`)).times;
    text = schedule ? (times.length ? "It would start:" : "It would never start.") : "It starts when somebody asks for it.";
  } catch (error) {
    if (!(error instanceof Refused || error instanceof BadField)) return;
    text = error.message;
  }
  if (number_ !== asked) return;
  const list = document.createElement("ol");
  list.append(
    ...times.map((time) => {
      const line = document.createElement("li");
      line.textContent = WRITTEN.format(new Date(time));
      return line;
    }),
  );
  place.replaceChildren(text, list);
  place.hidden = false;
}

function actionOf(form) {
  const fields = form.elements;
  switch (fields.kind.value) {
    case "call":
      return { kind: "call", server: fields.server.value, tool: fields.tool.value.trim(), arguments: json(fields.arguments, fields.arguments.value || "{}") };
    case "command": {
      const argv = fields.argv.value.split("\n").filter((line) => line !== "");
      if (!argv.length) throw new BadField(fields.argv, "Name a program.");
      const cwd = fields.cwd.value.trim();
      return { kind: "command", argv, ...(cwd ? { cwd } : {}), env: json(fields.env, fields.env.value || "{}") };
    }
    case "prompt":
      if (!fields.prompt.value.trim()) throw new BadField(fields.prompt, "Say what it is to do.");
      return { ...JSON.parse(fields.prompt_more.value), kind: "prompt", prompt: fields.prompt.value, servers: fields.prompt_servers.value.split("\n").map((one) => one.trim()).filter(Boolean) };
    default:
      return json(fields.action, fields.action.value);
  }
}

function jobOf(form) {
  const fields = form.elements;
  const count = (name) => number(fields[name], fields[name].value || "0");
  const optional = (name) => (fields[name].value.trim() === "" ? null : number(fields[name], fields[name].value));
  const action = actionOf(form);
  const own = `server:${action.server}`;
  return {
    ...JSON.parse(fields.kept.value),
    name: fields.name.value.trim(),
    schedule: scheduleOf(form),
    timezone: zoneOf(form),
    action,
    overlap: fields.overlap.value,
    concurrency: count("concurrency") || 1,
    catch_up: fields.catch_up.value,
    catch_up_window: count("catch_up_window"),
    timeout: optional("timeout"),
    idle_timeout: optional("idle_timeout"),
    retries: count("retries"),
    retry_backoff: count("retry_backoff"),
    jitter: count("jitter"),
    priority: count("priority"),
    on_interrupted: fields.on_interrupted.value,
    paused: fields.paused.value === "yes",
    resources: JSON.parse(fields.resources.value).filter((one) => !one.startsWith("server:") || one === own),
    deliver: fields.deliver.value.split(",").map((one) => one.trim()).filter(Boolean),
  };
}

async function saveJob(form) {
  const problem = document.getElementById("form-problem");
  const send = form.querySelector("button.primary");
  clearMarks(form);
  problem.hidden = true;
  try {
    const job = jobOf(form);
    if (!job.name) throw new BadField(form.elements.name, "A job needs a name.");
    send.disabled = true;
    if (form.dataset.new === "yes") await ask("POST", "/api/v1/jobs", job);
    else await ask("PUT", `/api/v1/jobs/${encodeURIComponent(job.name)}`, job);
    location.assign(`/jobs/${encodeURIComponent(job.name)}`);
  } catch (error) {
    send.disabled = false;
    if (error instanceof BadField) mark(error.field, error.message);
    else if (error instanceof Refused) tellRefusal(form, problem, error);
    else toast("The gateway does not answer.", { bad: true });
  }
}

function tellRefusal(form, problem, error) {
  let marked = false;
  for (const one of error.errors) {
    const names = one.pointer.split("/").filter(Boolean);
    const field = [...names].reverse().map((name) => form.elements[name]).find((found) => found instanceof HTMLElement);
    if (field && !marked) {
      mark(field, one.detail);
      marked = true;
    }
  }
  problem.textContent = [error.message, error.hint].filter(Boolean).join("\n");
  problem.hidden = false;
  if (!marked) problem.scrollIntoView({ block: "nearest" });
}

function mark(field, text) {
  const note = document.createElement("span");
  note.className = "error";
  note.textContent = text;
  note.id = `error-of-${field.name || field.dataset.path}`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", note.id);
  field.closest("details:not([open])")?.setAttribute("open", "");
  (field.closest(".field") ?? field.parentElement).append(note);
  field.focus();
}

function clearMarks(form) {
  for (const note of form.querySelectorAll(".error")) note.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}
