// Asking the API.  Every change carries the session's CSRF token.
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `The gateway answered with ${status}.`);
    this.status = status;
    this.hint = problem.hint || "";
    this.errors = problem.errors || [];
  }
}

export async function ask(method, path, body, { signal } = {}) {
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-csrf-token"] = document.querySelector('meta[name="csrf-token"]').content;
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  let document_ = {};
  try {
    document_ = text ? JSON.parse(text) : {};
  } catch {
    document_ = { detail: text.slice(0, 300) };
  }
  if (!answer.ok) throw new Refused(answer.status, document_);
  return document_;
}

export function toast(text, { hint = "", bad = false } = {}) {
  const box = document.createElement("div");
  box.className = bad ? "toast bad" : "toast";
  const words = document.createElement("div");
  words.textContent = text;
  if (hint) {
    const more = document.createElement("small");
    more.textContent = hint;
    words.append(more);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.className = "icon";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.addEventListener("click", () => box.remove());
  box.append(words, close);
  document.getElementById("toasts").append(box);
  if (!bad) setTimeout(() => box.remove(), 5000);
}

export function tellFailure(error) {
  if (error.name === "AbortError") return;
  const unreachable = error instanceof TypeError;
  toast(unreachable ? "The gateway does not answer." : error.message, { hint: error.hint, bad: true });
}
