// Buttons that change something: each names its request, asks first where it should, and says what came of it.
import { ask, tellFailure, toast } from "./api.js";

export function offerActions() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-path]");
    if (button) act(button);
  });
  document.getElementById("logout").addEventListener("click", logOut);
}

async function act(button) {
  const { method, path, done, body, goto } = button.dataset;
  if (button.dataset.confirm && !(await confirmed(button.dataset.confirm, button.dataset.verb))) return;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await ask(method, path, body ? JSON.parse(body) : undefined);
    if (goto) {
      location.assign(goto.replace("{id}", encodeURIComponent(answer.id ?? "")));
      return;
    }
    if (answer.ok === false) toast(answer.error || "It failed.", { hint: answer.hint, bad: true });
    else toast(told(done, answer));
  } catch (error) {
    tellFailure(error);
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
    document.dispatchEvent(new CustomEvent("sexton:refresh"));
  }
}

function told(done, answer) {
  if (answer.dry_run === false) {
    const count = answer.recovered.length + answer.ended.length;
    const stuck = answer.stuck.length ? ` ${answer.stuck.length} do not end; every sweep tries again.` : "";
    return count ? `${done} It ended ${count} ${count === 1 ? "tree" : "trees"}.${stuck}` : `${done} Nothing was without an owner.${stuck}`;
  }
  if (typeof answer.tools === "number" && answer.ok) return `${done} It has ${answer.tools} tools; it took ${answer.seconds} s.`;
  return done;
}

export function confirmed(question, verb) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-text").textContent = question;
  document.getElementById("confirm-yes").textContent = verb || "Go on";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function logOut() {
  try {
    await ask("POST", "/api/v1/logout");
    location.assign("/");
  } catch (error) {
    tellFailure(error);
  }
}
