// A conversation: what the turn under way says and does as it comes, and the field to answer in.  What comes from the model
// or a tool is only ever put in as text; the page itself, asked for again when the turn has ended, has it with its form.
import { ask, tellFailure, toast } from "./api.js";

const MOST_TEXT = 200_000; // characters of a text file that goes along with a message
let source = null;
let followed = "";
let words = null; // the element that the text under way is added to
let ended = "";
let editing = 0;
let files = [];

const talk = () => document.getElementById("talk");
const now = () => document.getElementById("now");
const byId = (id) => document.getElementById(id);

export function offerChat() {
  if (!talk()) return;
  follow();
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  window.addEventListener("pagehide", leave);
  document.addEventListener("sexton:changed", settle);
  document.addEventListener("click", clicked);
  if (byId("composer")) offerComposer();
  settle();
  if (!location.hash) toEnd(true);
}

function make(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

// Following

function follow() {
  const chat = talk().dataset.chat;
  if (!chat || source || document.hidden) return;
  followed = chat;
  source = new EventSource(`/api/v1/conversations/${encodeURIComponent(chat)}/events`);
  source.addEventListener("open", clear); // the turn under way is told from its beginning
  for (const [kind, heard] of Object.entries(HEARD)) {
    source.addEventListener(kind, (message) => {
      const atEnd = isAtEnd();
      heard(JSON.parse(message.data));
      if (atEnd) toEnd();
    });
  }
}

function leave() {
  source?.close();
  source = null;
}

const HEARD = {
  turn_started: () => {
    clear();
    busy(true);
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
  },
  text_delta: ({ text }) => {
    words ??= now().appendChild(make("div", "", "plain-text"));
    words.append(text);
  },
  text_withdrawn: ({ characters, why }) => {
    if (words) words.textContent = words.textContent.slice(0, words.textContent.length - characters);
    words = null;
    now().append(make("p", `${why}; it is asked again`, "dim"));
  },
  tool_call_started: (event) => {
    words = null;
    const box = callBox(event);
    box.querySelector(".arguments").textContent = JSON.stringify(event.arguments, null, 2);
  },
  tool_call_ended: (event) => {
    words = null;
    const box = callBox(event);
    show(box, event.state === "done" ? "ok" : event.state === "failed" ? "failed" : "cancelled", event.state);
    box.querySelector(".took").textContent = `${event.seconds.toFixed(2)} s`;
    box.querySelector(".result").textContent = event.text;
  },
  approval_asked: askPerson,
  approval_answered: ({ approval, state, by }) => {
    const box = now().querySelector(`[data-approval="${CSS.escape(approval)}"]`);
    box?.replaceChildren(make("p", `${box.dataset.about}: ${state}${by ? ` by ${by}` : ""}`));
  },
  steered: ({ text }) => {
    words = null;
    now().append(make("p", `You, meanwhile: ${text}`, "dim"));
  },
  model_changed: ({ model, why }) => {
    words = null;
    now().append(make("p", `${why}; ${model} answers instead`, "dim"));
  },
  turn_ended: ({ turn }) => {
    ended = turn;
    busy(false);
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
  },
};

function callBox({ call, server, tool }) {
  const found = now().querySelector(`[data-call="${CSS.escape(call)}"]`);
  if (found) return found;
  const box = make("details", "", "made");
  box.dataset.call = call;
  const summary = box.appendChild(make("summary"));
  summary.append(make("span", "", "state"), " ", make("b", `${server}.${tool}`), " ", make("span", "", "took dim"));
  box.append(make("h3", "Arguments"), make("pre", "", "arguments"), make("h3", "Result"), make("pre", "(not yet)", "result"));
  now().append(box);
  show(box, "running", "at work");
  return box;
}

function show(box, tone, text) {
  const state = box.querySelector(".state");
  state.className = `state s-${tone}`;
  state.replaceChildren(make("span", "", "dot"), text);
}

function askPerson({ approval, kind, server, tool, question, expires_at }) {
  words = null;
  const box = make("div", "", "approval panel");
  box.dataset.approval = approval;
  box.dataset.about = tool ? `${server}.${tool}` : server;
  const what = { call: `May ${box.dataset.about} be called?`, elicitation: `${server} asks for input`, sampling: `${server} wants to ask the model` };
  box.append(make("h2", what[kind] ?? kind));
  if (question.message) box.append(make("p", question.message));
  if (question.url) box.append(make("p", question.url, "plain-text"));
  if (kind !== "elicitation") box.append(make("pre", JSON.stringify(question.arguments ?? question, null, 2)));
  box.append(make("small", `A "no" if nobody answers by ${new Date(expires_at).toLocaleTimeString("en-GB")}.`));
  if (talk().dataset.may !== "answer") box.append(make("p", "Who has the scope admin can answer.", "dim"));
  else if (kind === "elicitation") addForm(box, approval);
  else {
    const row = box.appendChild(make("div", "", "row"));
    const yes = row.appendChild(make("button", "Yes", "primary"));
    const no = row.appendChild(make("button", "No"));
    yes.type = no.type = "button";
    yes.addEventListener("click", () => answer(box, approval, { yes: true }));
    no.addEventListener("click", () => answer(box, approval, { yes: false }));
  }
  now().append(box);
}

// The form that the page of the approvals has for it: it knows the schema, and what is needed.
async function addForm(box, approval) {
  try {
    const page = await (await fetch("/approvals", { headers: { accept: "text/html" } })).text();
    const form = new DOMParser().parseFromString(page, "text/html").getElementById(`answer-${approval}`);
    if (!form) return;
    const atEnd = isAtEnd();
    box.append(document.adoptNode(form));
    if (atEnd) toEnd();
  } catch (error) {
    tellFailure(error);
  }
}

async function answer(box, approval, said) {
  for (const button of box.querySelectorAll("button")) button.disabled = true;
  try {
    await ask("POST", `/api/v1/approvals/${encodeURIComponent(approval)}`, said);
    byId("words")?.focus();
  } catch (error) {
    tellFailure(error);
    for (const button of box.querySelectorAll("button")) button.disabled = false;
  }
}

function clear() {
  now().replaceChildren();
  words = null;
}

// What was under way stands in the page itself once its turn has ended.
function settle() {
  if (ended && talk().dataset.running !== ended) {
    const atEnd = isAtEnd();
    if (!talk().dataset.running) clear();
    ended = "";
    if (atEnd) toEnd();
  }
  busy(Boolean(talk().dataset.running));
}

function busy(is) {
  if (!byId("composer")) return;
  byId("stop").hidden = !is;
  byId("busy-choice").hidden = !is || editing > 0;
}

function isAtEnd() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;
}

function toEnd(first = false) {
  if (first && !document.querySelector(".said-by, .now-said > *")) return;
  window.scrollTo({ top: document.documentElement.scrollHeight });
}

// Saying something

function offerComposer() {
  const form = byId("composer");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say();
  });
  byId("words").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  byId("stop").addEventListener("click", stop);
  byId("edit-no").addEventListener("click", () => edit(0, ""));
  byId("attach").addEventListener("change", (event) => {
    add([...event.target.files]); // the list itself is emptied with the field
    event.target.value = "";
  });
  byId("words").addEventListener("paste", (event) => add([...event.clipboardData.files]));
}

async function add(chosen) {
  for (const file of chosen) {
    try {
      files.push(await readFile(file));
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }
  showFiles();
}

async function readFile(file) {
  if (["image/png", "image/jpeg", "image/gif", "image/webp"].includes(file.type)) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    let binary = "";
    for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return { name: file.name, shown: `data:${file.type};base64,${btoa(binary)}`, image: { media_type: file.type, data: btoa(binary), name: file.name } };
  }
  const text = await file.text();
  if (text.includes("\0") || text.includes("\uFFFD")) throw new Error(`${file.name} is neither a picture nor text.`);
  if (text.length > MOST_TEXT) throw new Error(`${file.name} has more than ${MOST_TEXT} characters.`);
  return { name: file.name, text };
}

function showFiles() {
  byId("files").replaceChildren(
    ...files.map((file) => {
      const item = make("li");
      if (file.shown) {
        const small = item.appendChild(document.createElement("img"));
        small.src = file.shown;
        small.alt = "";
      }
      item.append(`${file.name} `);
      const away = item.appendChild(make("button", "×", "quiet"));
      away.type = "button";
      away.setAttribute("aria-label", `Leave ${file.name} out`);
      away.addEventListener("click", () => {
        files = files.filter((one) => one !== file);
        showFiles();
      });
      return item;
    }),
  );
}

async function say() {
  const field = byId("words");
  const texts = files.filter((file) => file.text !== undefined).map((file) => `\n\n${file.name}:\n${file.text}`);
  const text = (field.value.trim() + texts.join("")).trim();
  const images = files.filter((file) => file.image).map((file) => file.image);
  if (!text && !images.length && !files.some((file) => file.kept !== undefined)) return;
  byId("send").disabled = true;
  try {
    const isNew = !talk().dataset.chat;
    const chat = talk().dataset.chat || (await ask("POST", "/api/v1/conversations", { way: "web" })).id;
    const path = `/api/v1/conversations/${encodeURIComponent(chat)}`;
    if (editing) await ask("POST", `${path}/retry`, { number: editing, text, images, keep: files.filter((file) => file.kept !== undefined).map((file) => file.kept) });
    else await ask("POST", `${path}/messages`, { text, images, when_busy: byId("when-busy").value });
    if (isNew) return location.assign(`/chat/${encodeURIComponent(chat)}`);
    files = [];
    showFiles();
    edit(0, "");
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
    toEnd();
  } catch (error) {
    tellFailure(error);
  } finally {
    byId("send").disabled = false;
  }
}

async function stop() {
  try {
    await ask("POST", `/api/v1/conversations/${encodeURIComponent(talk().dataset.chat)}/stop`);
  } catch (error) {
    tellFailure(error);
  }
}

// The pictures of a message that is edited stand among the files, and can be left out there.
function edit(number, text, pictures = []) {
  editing = number;
  files = [...files.filter((file) => file.kept === undefined), ...pictures];
  showFiles();
  byId("editing").hidden = !number;
  byId("words").value = text;
  byId("words").focus();
}

async function clicked(event) {
  const button = event.target.closest("[data-edit], [data-retry]");
  if (!button) return;
  if (button.dataset.edit) {
    const said = button.closest("article");
    const pictures = [...said.querySelectorAll("img[data-place]")].map((one, at) => ({ name: `Picture ${at + 1}`, kept: Number(one.dataset.place), shown: one.src }));
    edit(Number(button.dataset.edit), said.querySelector(".plain-text").textContent, pictures);
    return;
  }
  try {
    await ask("POST", `/api/v1/conversations/${encodeURIComponent(talk().dataset.chat)}/retry`, { number: Number(button.dataset.retry) });
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
  } catch (error) {
    tellFailure(error);
  }
}
